"""How well steering does what its preset asks, measured in llama.cpp on unseen text.

Gap closed, for a teacher (p: log-probabilities; rows: boundary and reply tokens)::

    1 - sum KL(p_prompted || p_steered) / sum KL(p_prompted || p_bare)

1 is a perfect replacement of the prompt, 0 no effect, below 0 harm.

For a contrast, which has no prompt to imitate, over neutral openings::

    pull   = mean of [log p(positive | opening) - log p(negative | opening)] per token,
             steered minus unsteered
    damage = rise of -log p per token of the model's own unsteered continuations

Units: nats per token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerplug.engine.context import Context, Row
from steerplug.engine.engine import Engine, Request
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt, plan
from steerplug.errors import FitError
from steerplug.fit.progress import Report, silent, steps
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import NOTHING, Array, Mix

OPENINGS = (
    "I think that", "When I woke up today, I", "The people in this town", "My neighbour says",
    "Looking at the sky, she", "In the end it was",
)  # fmt: skip
_CONTINUATION_TOKENS = 12
_MAX_TEXTS = 6


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)


def reply_log_probs(
    context: Context, prompt: Prompt, reply: Sequence[int], mixes: Sequence[Mix]
) -> Iterator[Array]:
    """Yield, for each mix, the log-probabilities at the boundary and reply rows.

    Each is (len(reply) + 1, n_vocab). Prompt cells that two mixes leave alike are decoded once.
    """
    tokens = (*prompt.tokens, *reply)
    first = len(prompt.tokens) - 1
    context.clear()
    cells: list[str | None] = []
    for mix in mixes:
        laid = plan(mix, prompt)
        applied = [*laid.prompt, *[laid.generated] * len(reply)]
        keys = [what.key if what else None for what in applied]
        same = 0
        while same < min(first, len(cells)) and cells[same] == keys[same]:
            same += 1
        same = context.keep(same)
        cells = keys[:first]
        logits = []
        for start in range(same, len(tokens), context.n_batch):
            end = min(start + context.n_batch, len(tokens))
            context.decode([
                Row(tokens[i], i, i >= first, applied[i]) for i in range(start, end)
            ])
            logits += [context.logits(i - start) for i in range(max(start, first), end)]
        yield log_softmax(np.stack(logits))


def gaps_closed(
    context: Context, lessons: Sequence[Lesson], mixes: Sequence[Mix], report: Report = silent
) -> NDArray[np.float64]:
    """Return the share of the gap to the prompted model that each mix closes, (n_mixes,).

    Raises:
        FitError: the prompted and the bare model do not differ, so there is nothing to learn.
    """
    total = np.zeros(len(mixes) + 1)
    for lesson in steps(lessons, "measuring on unseen questions", report):
        (teacher,) = reply_log_probs(context, lesson.prompted, lesson.reply, [NOTHING])
        students = reply_log_probs(context, lesson.bare, lesson.reply, [NOTHING, *mixes])
        probability = np.exp(teacher)
        for i, student in enumerate(students):
            total[i] += float((probability * (teacher - student)).sum())
    gap = total[0] / sum(lesson.n_rows for lesson in lessons)
    if gap < 1e-3:
        raise FitError(
            f"there is nothing to learn: the prompted model differs from the bare one by {gap:.5f} "
            "nats per token; give the teacher an instruction the model follows."
        )
    return np.asarray(1 - total[1:] / total[0])


@dataclass(frozen=True)
class Probe:
    """Texts after one neutral opening: the contrast's two sides, and the model's own words."""

    opening: Prompt
    positive: tuple[tuple[int, ...], ...]
    negative: tuple[tuple[int, ...], ...]
    own: tuple[int, ...]


def probes(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[Probe]:
    """Make the probes of a contrast; long lists of pairs are thinned out evenly."""
    vocab = engine.model.vocab
    chosen = pairs[:: -(-len(pairs) // _MAX_TEXTS)]
    positive, negative = (
        tuple(tuple(vocab.tokenize(" " + text.lstrip())) for text in side if text.strip())
        for side in zip(*chosen, strict=True)
    )
    made = []
    for opening in OPENINGS:
        tokens = vocab.tokenize(opening)
        prompt = Prompt((vocab.bos, *tokens), has_bos=True) if vocab.bos >= 0 else Prompt(
            tuple(tokens))
        request = Request(
            prompt, sampling=Sampling(temperature=0), max_tokens=_CONTINUATION_TOKENS
        )
        own = tuple(piece.token for piece in engine.generate(request))
        made.append(Probe(prompt, positive, negative, own))
    return made


def pulls_and_damages(
    context: Context, asked: Sequence[Probe], mixes: Sequence[Mix], report: Report = silent
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return pull and damage of each mix, both (n_mixes,), in nats per token."""
    every = [NOTHING, *mixes]
    pull, damage = np.zeros(len(every)), np.zeros(len(every))
    for probe in steps(asked, "measuring pull and damage", report):
        pull += _likelihood(context, probe.opening, probe.positive, every)
        pull -= _likelihood(context, probe.opening, probe.negative, every)
        damage -= _likelihood(context, probe.opening, (probe.own,), every)
    pull, damage = pull / len(asked), damage / len(asked)
    return pull[1:] - pull[0], damage[1:] - damage[0]


def _likelihood(
    context: Context, opening: Prompt, texts: Sequence[tuple[int, ...]], mixes: Sequence[Mix]
) -> NDArray[np.float64]:
    """Return the mean log-probability per token of the texts, for each mix."""
    total = np.zeros(len(mixes))
    for text in texts:
        for i, rows in enumerate(reply_log_probs(context, opening, text[:-1], mixes)):
            total[i] += float(rows[np.arange(len(text)), list(text)].mean())
    return total / max(len(texts), 1)
