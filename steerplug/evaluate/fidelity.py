"""The fidelity report: how well steering stands in for its preset's prompt, on unseen questions.

The prompted model answers each question twice, greedily and sampled (T 0.7, seeded). Prompted, bare
and steered model then read those same replies, boundary token included, and are compared row by row
(gap, left, drift in nats, see `rows`)::

    gap_closed      1 - sum left / sum gap      1: a perfect stand-in, 0: no effect, below 0: harm
    bare_kl         mean gap                    how much there was to do, nats per token
    top1_agreement  share of rows where steered and prompted find the same token likeliest
    flip_recovery   that share among the rows where prompted and bare do not
    neutral_kl      mean drift over the rows where gap < 0.01, nats per token

`neutral_kl` is what steering does where it should do nothing: at the tokens of a reply that the
prompt itself leaves alone, such as the end of a word that has begun. Every reply to the questions
counts, and one greedy reply of the prompted model to each neutral prompt (facts, sums, texts to
continue). A token that the prompt changes is not neutral, even in the answer to a sum: a pirate
says sums like a pirate. Prompt tokens need no figure in scope `response`, whose steering leaves
them bit-identical.

Greedy replies of at most 64 tokens show what comes of it: `coherence` and `repetition` (see
`replies`), and `checks`, the share of replies that pass all checks of the preset. They count by the
reply and not by the token, so more questions are asked for them. Steered ones keep to the preset's
`decoding`, as in use; one that is cut off before its last brace is no JSON, and fails that check.

A preset made from a contrast has no prompt to stand in for. It has `dial` and `damage` instead (see
`fit.measure`), and the figures that compare with a prompted model are None.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from steerplug.chat.template import ChatTemplate
from steerplug.engine.detokenizer import Detokenizer
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.evaluate.estimate import NO_ESTIMATE, Estimate, ratio, share
from steerplug.evaluate.questions import Questions
from steerplug.evaluate.replies import JudgedReply, Quality, all_greedy, read, schema_of
from steerplug.evaluate.rows import Rows, compare, per_prompt
from steerplug.fit.measure import check_gap, dial_and_damage, probes
from steerplug.fit.progress import Report, silent, steps
from steerplug.fit.reply_cache import ReplyCache
from steerplug.fit.teacher import ASKING_STEERED, Lesson, teach
from steerplug.preset import Preset
from steerplug.steering.value import Mix, Steering

BARE, PROMPTED, STEERED = "bare", "prompted", "steered"
LEFT_ALONE = 0.01  # nats
REPLY_TOKENS = 64

Ways = Mapping[str, Estimate]


@dataclass(frozen=True)
class Fidelity:
    """The report; see the module for every figure.

    `coherence`, `repetition` and `checks` are of the replies by "bare", "prompted" and "steered"
    models, to `n_replies` questions; `checks` is None for a preset without any. What compares
    tokens is of `n_prompts` of these, `gap_closed` of `n_tokens` rows. `prompt_tokens_saved` is the
    mean length of what steering replaces.
    """

    n_prompts: int
    n_replies: int
    coherence: Ways
    repetition: Ways
    checks: Ways | None = None
    n_tokens: int = 0
    gap_closed: Estimate = NO_ESTIMATE
    bare_kl: Estimate = NO_ESTIMATE
    top1_agreement: Estimate = NO_ESTIMATE
    flip_recovery: Estimate = NO_ESTIMATE
    neutral_kl: Estimate = NO_ESTIMATE
    dial: float | None = None
    damage: float | None = None
    prompt_tokens_saved: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; each estimate has its 95 % `<key>_interval`."""
        report: dict[str, Any] = {}
        for name in ("gap_closed", "bare_kl", "top1_agreement", "flip_recovery", "neutral_kl"):
            estimate: Estimate = getattr(self, name)
            report[name], report[f"{name}_interval"] = estimate.as_json()
        coherence, repetition = _ways(self.coherence), _ways(self.repetition)
        report["coherence"] = {**coherence[0], "repetition": repetition[0]}
        report["coherence_interval"] = {**coherence[1], "repetition": repetition[1]}
        checks = _ways(self.checks) if self.checks is not None else (None, None)
        report["checks"] = {**checks[0], "n": self.n_replies} if checks[0] is not None else None
        report["checks_interval"] = checks[1]
        return {
            **report,
            "dial": self.dial,
            "damage": self.damage,
            "prompt_tokens_saved": self.prompt_tokens_saved,
            "n_prompts": self.n_prompts,
            "n_replies": self.n_replies,
            "n_tokens": self.n_tokens,
        }


def _ways(estimates: Ways) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values and the intervals by way; a way that was not tried is None."""
    ways = (BARE, PROMPTED, STEERED)
    pairs = [estimates.get(way, NO_ESTIMATE).as_json() for way in ways]
    values, intervals = zip(*pairs, strict=True)
    return dict(zip(ways, values, strict=True)), dict(zip(ways, intervals, strict=True))


def measure_fidelity(
    preset: Preset,
    steering: Steering | Mix,
    engine: Engine,
    reader: Reader,
    questions: Questions,
    *,
    seed: int = 0,
    cache: ReplyCache | None = None,
    report: Report = silent,
) -> Fidelity:
    """Return the fidelity report of steering for a preset on the engine's model.

    Args:
        preset: what the steering should do: its teacher or contrast, decoding and checks.
        steering: the numbers, at strength 1, or a mix with its strengths.
        engine: the model, to generate.
        reader: of another context on the same model, as large as the engine's.
        questions: what is asked; nothing that the preset was fitted on.
        seed: of the sampled replies.
        cache: replies that are not asked for again; new ones are put in.
        report: told how far the work is.

    Raises:
        FitError: the prompted model says nothing, or what the bare model says.
    """
    mix, model = Mix.of(steering), engine.model
    template = ChatTemplate.of(model)
    asked = [*questions.compared, *questions.further]
    bare = [template.asked(question) for question in asked]
    ask = partial(all_greedy, engine, bare, n_tokens=REPLY_TOKENS, cache=cache, report=report)
    replies = {
        BARE: ask(what="asking the bare model"),
        STEERED: ask(mix, schema=schema_of(preset, mix), what=ASKING_STEERED),
    }
    figures: dict[str, Any] = {}
    if preset.teacher is not None:
        taught = partial(
            teach, engine, template, preset.teacher, n_tokens=REPLY_TOKENS, cache=cache,
            report=report,
        )  # fmt: skip
        greedily = partial(taught, seed=seed, temperature=0.0)
        lessons = greedily(questions.compared)
        others = greedily(questions.further) if questions.further else []
        replies[PROMPTED] = [_reply(model, lesson) for lesson in [*lessons, *others]]
        sampled = taught(questions.compared, seed=seed)
        aside = greedily(questions.neutral) if questions.neutral else []
        figures = row_figures(reader, [*lessons, *sampled], aside, mix, report)
    if preset.contrast is not None:
        probed = probes(engine, reader, preset.contrast.pairs, report)
        figures["dial"], figures["damage"] = dial_and_damage(reader, probed, mix)
    qualities = {
        way: Quality.of([read(reader, reply) for reply in steps(some, "reading replies", report)])
        for way, some in replies.items()
    }
    return Fidelity(
        n_prompts=len(questions.compared),
        n_replies=len(asked),
        coherence={way: quality.coherence for way, quality in qualities.items()},
        repetition={way: quality.repetition for way, quality in qualities.items()},
        checks=_checked(preset, replies, len(asked)) if preset.checks else None,
        **figures,
    )


def row_figures(
    reader: Reader,
    lessons: Sequence[Lesson],
    aside: Sequence[Lesson],
    mix: Mix,
    report: Report = silent,
) -> dict[str, Any]:
    """Return those fields of the report that compare rows.

    Args:
        reader: of a context on the model.
        lessons: the prompted model's replies to the questions.
        aside: and to the neutral prompts, which count for `neutral_kl` alone.
        mix: the steering.
        report: told how far the work is.

    Raises:
        FitError: the prompted and the bare model do not differ.
    """
    compared = list(compare(reader, [*lessons, *aside], mix, report))
    return figures_of(compared[: len(lessons)], compared)


def figures_of(
    own: Sequence[tuple[Lesson, Rows]], compared: Sequence[tuple[Lesson, Rows]]
) -> dict[str, Any]:
    """Return the same of rows that are there.

    Args:
        own: the replies to the questions.
        compared: and those to the neutral prompts besides.

    Raises:
        FitError: the prompted and the bare model do not differ.
    """
    def over(value: Callable[[Rows], Any], under: Callable[[Rows], Any]) -> Estimate:
        return ratio(per_prompt(own, value), per_prompt(own, under))

    bare_kl = over(lambda rows: rows.gap, _each)
    assert bare_kl.value is not None
    check_gap(bare_kl.value)
    return {
        "n_tokens": sum(lesson.n_rows for lesson, _ in own),
        "gap_closed": over(lambda rows: rows.gap - rows.left, lambda rows: rows.gap),
        "bare_kl": bare_kl,
        "top1_agreement": over(lambda rows: rows.steered == rows.prompted, _each),
        "flip_recovery": over(lambda rows: _flipped(rows) & (rows.steered == rows.prompted),
                              _flipped),
        "neutral_kl": ratio(
            per_prompt(compared, lambda rows: rows.drift[rows.gap < LEFT_ALONE]),
            per_prompt(compared, lambda rows: rows.gap < LEFT_ALONE),
        ),
        "prompt_tokens_saved": float(np.mean(
            [len(lesson.prompted.tokens) - len(lesson.bare.tokens) for lesson, _ in own]
        )),
    }  # fmt: skip


def _each(rows: Rows) -> Any:
    return np.ones(len(rows.gap))


def _flipped(rows: Rows) -> Any:
    return rows.prompted != rows.bare


def _reply(model: Model, lesson: Lesson) -> JudgedReply:
    text = Detokenizer().feed(b"".join(map(model.vocab.piece, lesson.reply)))
    return JudgedReply(lesson.bare, lesson.reply, text)


def _checked(preset: Preset, replies: Mapping[str, Sequence[JudgedReply]], n: int) -> Ways:
    """Return the share of n questions whose reply passes all checks; unanswered ones do not."""
    passed = {
        way: [preset.passes(reply.text) for reply in some]
        for way, some in replies.items()
    }
    return {way: share([*those, *[False] * (n - len(those))]) for way, those in passed.items()}
