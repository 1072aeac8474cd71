"""How well steering does what its preset asks, measured in llama.cpp on unseen text.

Gap closed, for a teacher (p: log-probabilities; rows: boundary and reply tokens)::

    1 - sum KL(p_prompted || p_steered) / sum KL(p_prompted || p_bare)

1 is a perfect replacement of the prompt, 0 no effect, below 0 harm.

For a contrast, which has no prompt to imitate, over the model's own words y after an opening::

    wanted = log p(y | positive, opening) - log p(y | negative, opening)
    pull_k = <log p_k(y | opening) - log p(y | opening), wanted> / <wanted, wanted>
    dial   = min of pull_k - pull_j over neighbours j < k of the strengths -2, -1, 0, 1, 2
    damage = mean of log p(y | opening) - log p_1(y | opening)

p_k is steered at strength k; <.,.> is the covariance under the unsteered p. The contrast's own
texts, read as prompts, say which way every word should move; a good steering moves them that way at
every turn of the dial, in both directions.

Units: nats per token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerplug.engine.engine import Engine
from steerplug.engine.reader import Reader, reply_rows
from steerplug.engine.request import Request, tokens_of
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.errors import FitError
from steerplug.fit.progress import Report, silent, steps
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import NOTHING, Array, Mix, Steering

OPENINGS = ("I think that", "When I woke up, I")
DIAL = (-2.0, -1.0, 1.0, 2.0)
_OWN_TOKENS = 6
_MAX_PAIRS = 4
READ_TOGETHER = 4
"""Lessons whose prompted log-probabilities are held in memory, and whose prompt is read once."""

MEASURING = "measuring on unseen questions"
_UNMOVED = 0.01  # nats: what a batch of another shape may change


def log_softmax(logits: Array) -> Array:
    """Return log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(shifted, np.float32)


def divergence(weights: Array, p: Array, q: Array) -> NDArray[np.float64]:
    """Return sum over the vocabulary of weights (p - q) for each row, (n_rows,).

    With `weights` exp(p), it is KL(p || q); the arguments are (n_rows, n_vocab).
    """
    # Not by BLAS, which would leave threads spinning that the next decode lacks.
    return np.asarray(np.einsum("rv,rv->r", weights, p - q), np.float64)


def reply_log_probs(
    reader: Reader, prompt: Prompt, reply: Sequence[int], mixes: Sequence[Mix]
) -> Iterator[Array]:
    """Yield, for each mix, the log-probabilities at the boundary and reply rows.

    Each is (len(reply) + 1, n_vocab).
    """
    first = len(prompt.tokens) - 1
    for mix in mixes:
        rows = reply_rows(prompt, reply, mix, output_from=first)
        same = reader.reuse(rows[:first])
        logits = [
            reader.context.logits(row)
            for batch in reader.decode(rows[same:])
            for row in range(max(first - same - batch.begin, 0), batch.end - batch.begin)
        ]
        yield log_softmax(np.stack(logits))


def prompted_log_probs(
    reader: Reader, lessons: Sequence[Lesson]
) -> Iterator[tuple[Lesson, Array]]:
    """Yield each lesson with the log-probabilities of its rows in the prompted model.

    The prompted chats of a few lessons are read one after another, so that a long prompt is
    computed once for all of them, whatever else is read between two lessons.
    """
    for start in range(0, len(lessons), READ_TOGETHER):
        some = lessons[start : start + READ_TOGETHER]
        prompted = [
            next(reply_log_probs(reader, lesson.prompted, lesson.reply, [NOTHING]))
            for lesson in some
        ]
        yield from zip(some, prompted, strict=True)


def gaps_closed(
    reader: Reader, lessons: Sequence[Lesson], mixes: Sequence[Mix], report: Report = silent,
    what: str = MEASURING,
) -> NDArray[np.float64]:  # fmt: skip
    """Return the share of the gap to the prompted model that each mix closes, (n_mixes,).

    Raises:
        FitError: the prompted and the bare model do not differ, so there is nothing to learn.
    """
    total = np.zeros(len(mixes) + 1)
    counted = steps(lessons, what, report)
    for _, (lesson, teacher) in zip(counted, prompted_log_probs(reader, lessons), strict=True):
        students = reply_log_probs(reader, lesson.bare, lesson.reply, [NOTHING, *mixes])
        probability = np.exp(teacher)
        for i, student in enumerate(students):
            total[i] += divergence(probability, teacher, student).sum()
    check_gap(total[0] / sum(lesson.n_rows for lesson in lessons))
    return np.asarray(1 - total[1:] / total[0])


def check_gap(gap: float) -> None:
    """Refuse a prompt that changes nothing; `gap` is KL(p_prompted || p_bare) in nats per token.

    Raises:
        FitError: the prompted and the bare model do not differ, so there is nothing to learn.
    """
    if gap < _UNMOVED:
        raise FitError(
            f"there is nothing to learn: the prompted model differs from the bare one by {gap:.5f} "
            "nats per token; give the teacher an instruction the model follows."
        )


@dataclass(frozen=True)
class Probe:
    """One neutral opening, the model's own words after it, and how the contrast would move them.

    `log_probs` and `wanted` are (len(own) + 1, n_vocab).
    """

    opening: Prompt
    own: tuple[int, ...]
    log_probs: Array
    wanted: Array


def probes(
    engine: Engine, reader: Reader, pairs: Sequence[tuple[str, str]], report: Report = silent
) -> list[Probe]:
    """Make the probes of a contrast; long lists of pairs are thinned out evenly.

    Raises:
        FitError: the contrast's texts, read as prompts, do not change what the model says.
    """
    chosen = pairs[:: -(-len(pairs) // _MAX_PAIRS)]
    probed = [_probe(engine, reader, chosen, text) for text in
              steps(OPENINGS, "reading the contrast as prompts", report)]
    if all(np.abs(probe.wanted).max() < _UNMOVED for probe in probed):
        raise FitError(
            "the contrast makes no difference to what the model says; write texts that differ in "
            "more than white space, or in one clear trait."
        )
    return probed


def _probe(
    engine: Engine, reader: Reader, pairs: Sequence[tuple[str, str]], text: str
) -> Probe:
    vocab = engine.model.vocab

    def prompt(of: str) -> Prompt:
        return Prompt((*vocab.start, *vocab.tokenize(of)), has_bos=bool(vocab.start))

    opening = prompt(text)
    request = Request(opening, sampling=Sampling(temperature=0), max_tokens=_OWN_TOKENS)
    own = tokens_of(engine.generate(request))

    def after(front: str) -> Array:
        read = prompt(f"{front} {text}".lstrip())
        return next(reply_log_probs(reader, read, own, [NOTHING]))

    wanted = sum((after(plus) - after(minus) for plus, minus in pairs), np.float32(0))
    return Probe(opening, own, after(""), np.asarray(wanted / len(pairs), np.float32))


def dial_and_damage(
    reader: Reader, probed: Sequence[Probe], steering: Steering | Mix
) -> tuple[float, float]:
    """Return how well a steering works as a dial for its contrast, and what it breaks.

    Both are sums over probes: the dial as a share of what the prompts themselves do, the damage in
    nats per token.
    """
    pulls, wanted, damage = np.zeros(len(DIAL)), 0.0, 0.0
    for probe in probed:
        weights = np.exp(probe.log_probs)
        wanted += _covariance(weights, probe.wanted, probe.wanted)
        mixes = [strength * steering for strength in DIAL]
        rows = list(reply_log_probs(reader, probe.opening, probe.own, mixes))
        pulls += [_covariance(weights, steered - probe.log_probs, probe.wanted)
                  for steered in rows]
        lost = probe.log_probs - rows[DIAL.index(1.0)]
        damage += float(lost[np.arange(len(probe.own)), list(probe.own)].mean()) / len(probed)
    dial = np.diff(np.insert(pulls / wanted, len(DIAL) // 2, 0.0)).min()
    return float(dial), damage


def _covariance(weights: Array, a: Array, b: Array) -> float:
    """Return the sum over rows of the covariance of a and b under the rows' probabilities."""
    mean_a, mean_b = ((weights * x).sum(axis=-1, keepdims=True) for x in (a, b))
    return float((weights * (a - mean_a) * (b - mean_b)).sum())
