"""What carriers keep of their prompt: the figures of `evaluate.fidelity`, of each by llama.cpp.

Prompted, bare and carried model read the same replies of the prompted one, token by token; greedy
replies of each are held against the preset's checks. None is held to a grammar.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerplug.benchmark.rivals.carrier import Carrier
from steerplug.chat.template import ChatTemplate
from steerplug.engine.detokenizer import Detokenizer
from steerplug.engine.engine import Engine
from steerplug.engine.reader import Reader
from steerplug.engine.vocab import Vocab
from steerplug.evaluate.estimate import NO_ESTIMATE, Estimate, share
from steerplug.evaluate.fidelity import REPLY_TOKENS, figures_of
from steerplug.evaluate.questions import Questions
from steerplug.evaluate.rows import Rows
from steerplug.fit.measure import prompted_log_probs, reply_log_probs
from steerplug.fit.progress import Report, steps
from steerplug.fit.reply_cache import ReplyCache
from steerplug.fit.teacher import Lesson, teach
from steerplug.preset import Preset
from steerplug.steering.value import NOTHING

PROMPT = "prompt"


@dataclass(frozen=True)
class Asked:
    """What the prompted model says to the questions of a report.

    Args:
        greedy: to those that are compared and to those whose replies are checked besides.
        compared: greedily and sampled, to those that are compared.
        aside: greedily to neutral prompts.
    """

    greedy: Sequence[Lesson]
    compared: Sequence[Lesson]
    aside: Sequence[Lesson]

    @property
    def n_longest(self) -> int:
        """Tokens of the longest prompted chat with its reply."""
        lessons = [*self.greedy, *self.compared, *self.aside]
        return max(len(x.prompted.tokens) for x in lessons) + REPLY_TOKENS

    @staticmethod
    def of(
        preset: Preset, engine: Engine, questions: Questions, cache: ReplyCache, report: Report
    ) -> "Asked":
        """Ask it."""
        assert preset.teacher is not None
        template, teacher, seed = ChatTemplate.of(engine.model), preset.teacher, preset.fit.seed

        def ask(some: Sequence[str], temperature: float) -> list[Lesson]:
            return teach(
                engine, template, teacher, some, seed=seed, temperature=temperature,
                n_tokens=REPLY_TOKENS, cache=cache, report=report,
            ) if some else []  # fmt: skip

        first, sampled = ask(questions.compared, 0.0), ask(questions.compared, 0.7)
        further, aside = ask(questions.further, 0.0), ask(questions.neutral, 0.0)
        return Asked([*first, *further], [*first, *sampled], aside)


def row_figures(
    reader: Reader, asked: Asked, carriers: Mapping[str, Carrier], report: Report
) -> dict[str, dict[str, Any]]:
    """Return gap closed, flips recovered and drift of each carrier, and of the prompt itself.

    Args:
        reader: of a context on the model.
        asked: what is read.
        carriers: what reads.
        report: told how far it is.
    """
    lessons = [*asked.compared, *asked.aside]
    compared: dict[str, list[tuple[Lesson, Rows]]] = {name: [] for name in (PROMPT, *carriers)}
    counted = steps(lessons, "comparing token by token", report)
    for _, (lesson, prompted) in zip(counted, prompted_log_probs(reader, lessons), strict=True):
        bare = next(reply_log_probs(reader, lesson.bare, lesson.reply, [NOTHING]))
        compared[PROMPT].append((lesson, Rows.of(prompted, bare, prompted)))
        for name, carrier in carriers.items():
            read = carrier.log_probs(lesson.bare, lesson.reply)
            compared[name].append((lesson, Rows.of(prompted, bare, read)))
    n = len(asked.compared)
    return {name: figures_of(rows[:n], rows) for name, rows in compared.items()}


def checks_kept(
    preset: Preset, asked: Asked, carriers: Mapping[str, Carrier], vocab: Vocab, report: Report
) -> dict[str, Estimate]:
    """Return the share of greedy replies that pass all checks, of each carrier and the prompt."""
    names = (PROMPT, *carriers)
    if not preset.checks:
        return dict.fromkeys(names, NO_ESTIMATE)
    kept: dict[str, list[bool]] = {name: [] for name in names}
    for lesson in steps(asked.greedy, "replying with each carrier", report):
        kept[PROMPT].append(_passes(preset, vocab, lesson.reply))
        for name, carrier in carriers.items():
            reply = carrier.reply(lesson.bare, REPLY_TOKENS)
            kept[name].append(_passes(preset, vocab, reply))
    return {name: share(answers) for name, answers in kept.items()}


def _passes(preset: Preset, vocab: Vocab, reply: Sequence[int]) -> bool:
    return preset.passes(Detokenizer().feed(b"".join(map(vocab.piece, reply))))
