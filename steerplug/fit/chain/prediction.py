"""The last block, fitted to what is predicted: nothing but norm and output matrix is above it.

    logits(h) = rms(h) . head + log(how many words each stands for)
    loss      = mean over rows of sum_v p(v) (log p(v) - log q(v))        p prompted, q steered
    delta(h)  = s * Z^T . u        u = ReLU(W . x + b), x = rms(h)

With g the slope of the loss by h + delta(h) and a = s (Z . g) where u > 0, that by Z is s u g^T,
by W a x^T and by b a. g = (v - y mean(v y)) / size, v = head . (q - p) / n_rows, where y is
rms(h + delta(h)) and size the root that it divides by.

The head is regressed on rows whose logits llama.cpp says, so nothing is asked of the model's file:
it is exact but for a cap on the logits, or a norm that takes away the mean. Words are the likeliest
ones after rows of both chats, and as many drawn from the others, each of which stands for several:
without them, what is likely besides would rise unseen.

Shapes: h (n_rows, n_embd); head (n_embd, n_words); p, q (n_rows, n_words); W, Z (k, n_embd); b
(k,). s is a tenth of the median of sqrt(mean(h^2)). Unit of the loss: nats per token.
Start: W uniform within +-0.1 / sqrt(n_embd), b = 0.5, Z normal with deviation 0.01, as for `psr`.
AdamW (arXiv 1711.05101), its rate falling linearly to 0; the pass that helps rows held back most is
kept, none of them if none does.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from steerplug.engine.reader import Reader, reply_rows
from steerplug.errors import FitError
from steerplug.fit.measure import log_softmax
from steerplug.fit.questions import spread
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import NOTHING, Array, Delta

UNITS, PASSES, BATCH, RATE = 16, 8, 128, 3e-3
_BETAS, _DECAY, _TINY = (0.9, 0.95), 1.0, 1e-8
_N_WORDS = 4096
_HELD_BACK = 6
_LOOKED_AT = 8
_ROWS_A_VALUE = 3
"""Rows whose logits the head is regressed on, for each value of a row."""

Parameters = dict[str, Array]


@dataclass(frozen=True, eq=False)
class Head:
    """What says how likely words are after rows at the last block.

    Args:
        map: (n_embd, n_words), from rms(h) to logits.
        stands_for: (n_words,), the logarithm of how many words each stands for.
    """

    map: Array
    stands_for: Array

    def probabilities(self, h: Array) -> Array:
        """Return how likely each word is after rows, (n_rows, n_words)."""
        return np.exp(log_softmax(_normed(h) @ self.map + self.stands_for))

    def loss(self, h: Array, wanted: Array) -> tuple[float, Array]:
        """Return the mean over rows of KL(wanted || predicted), and its slope by the rows."""
        size = np.sqrt((h**2).mean(axis=1, keepdims=True))
        y = h / size
        log_q = log_softmax(y @ self.map + self.stands_for)
        kl = (wanted * (np.log(wanted + 1e-12) - log_q)).sum() / len(h)
        v = (np.exp(log_q) - wanted) @ self.map.T / len(h)
        return float(kl), np.asarray((v - y * (v * y).mean(axis=1, keepdims=True)) / size)


def head_of(reader: Reader, lessons: Sequence[Lesson]) -> Head:
    """Regress the head on rows of both chats of as many lessons as it takes."""
    model = reader.context.model
    mass = np.zeros(model.vocab.n_tokens)
    for _, logits in _both_chats(reader, spread(lessons, _LOOKED_AT)):
        mass += np.exp(log_softmax(logits)).sum(axis=0)
    words, others = np.split(np.argsort(-mass), [_N_WORDS])
    drawn = np.random.default_rng(0).permutation(others)[:_N_WORDS]
    stands_for = np.repeat([1, len(others) / max(len(drawn), 1)], [len(words), len(drawn)])
    words = np.concatenate([np.sort(words), np.sort(drawn)])
    n_rows = 2 * sum(lesson.n_rows for lesson in lessons)
    some = spread(lessons, math.ceil(_ROWS_A_VALUE * model.n_embd / n_rows * len(lessons)))
    rows, scores = [], []
    for h, logits in _both_chats(reader, some):
        rows.append(h)
        scores.append(logits[:, words])
    x, wanted = _normed(np.concatenate(rows)).astype(np.float64), np.concatenate(scores)
    wanted -= wanted.mean(axis=1, keepdims=True)
    xx = x.T @ x
    xx[np.diag_indices_from(xx)] += 1e-6 * np.trace(xx) / len(xx)
    weights = np.linalg.solve(xx, x.T @ wanted).astype(np.float32)
    return Head(weights, np.log(stands_for).astype(np.float32))


def n_read(n_lessons: int, n_rows: float, n_embd: int) -> float:
    """Return of how many lessons both chats are read for the head; n_rows has each on average."""
    return min(_LOOKED_AT, n_lessons) + min(_ROWS_A_VALUE * n_embd / (2 * n_rows), n_lessons)


def memory_needed(n_embd: int, n_rows: float) -> int:
    """Return the bytes that it takes, about: what rows are to predict, and the head."""
    return round(8 * _N_WORDS * (n_rows + 12 * n_embd))


def fit_prediction(head: Head, rows: Sequence[Array], wanted: Sequence[Array]) -> Delta:
    """Return gates after which rows predict what others do.

    Args:
        head: of the model.
        rows: steered, at the last block: (n_rows, n_embd) of each lesson; of some they choose the
            pass.
        wanted: the prompted ones.

    Raises:
        FitError: training did not converge.
    """
    held_back = range(0, len(rows), _HELD_BACK)
    fit = [i for i in range(len(rows)) if i % _HELD_BACK] or held_back
    h, p = _together(head, rows, wanted, fit)
    unseen, p_unseen = _together(head, rows, wanted, held_back)
    random = np.random.default_rng(0)
    scale = np.median(np.sqrt((h**2).mean(axis=1))) / 10
    now, optimizer = _start(random, h.shape[1]), _AdamW(PASSES * -(-len(h) // BATCH))
    best, kept = head.loss(unseen, p_unseen)[0], {**now, "Z": np.zeros_like(now["Z"])}
    for _ in range(PASSES):
        order = random.permutation(len(h))
        for begin in range(0, len(h), BATCH):
            some = order[begin : begin + BATCH]
            now = optimizer.step(now, _slopes(head, now, scale, h[some], p[some]))
        left = head.loss(_steered(now, scale, unseen), p_unseen)[0]
        if not np.isfinite(left):
            raise FitError("training did not converge; write `layers` without the last block.")
        if left < best:
            best, kept = left, now
    return Delta.gated(kept["W"], kept["b"], scale * kept["Z"])


def _both_chats(reader: Reader, lessons: Sequence[Lesson]) -> Iterator[tuple[Array, Array]]:
    """Yield rows at the last block and their logits: of all prompted chats, then of the bare ones.

    One side after the other, because all prompts of a side begin alike.
    """
    for side in ("prompted", "bare"):
        for lesson in lessons:
            prompt = lesson.prompted if side == "prompted" else lesson.bare
            first = prompt.boundary
            text = reply_rows(prompt, lesson.reply, NOTHING, first)
            reader.hold(text[:first])
            captured, logits = [], []
            for batch in reader.decode(text[first:], [reader.context.model.n_layer - 1]):
                captured += [] if batch.captured is None else [batch.captured[0]]
                logits += [reader.context.logits(row) for row in range(batch.end - batch.begin)]
            yield np.concatenate(captured), np.stack(logits)


def _together(
    head: Head, rows: Sequence[Array], wanted: Sequence[Array], some: Sequence[int]
) -> tuple[Array, Array]:
    """Return the rows of some lessons, and what they are to predict."""
    h = np.concatenate([rows[i] for i in some])
    p, begin = np.empty((len(h), head.map.shape[1]), np.float32), 0
    for i in some:  # one by one, as each takes much memory
        end = begin + len(wanted[i])
        p[begin:end], begin = head.probabilities(wanted[i]), end
    return h, p


def _start(random: np.random.Generator, n_embd: int) -> Parameters:
    spread = 0.1 / np.sqrt(n_embd)
    return {
        "W": random.uniform(-spread, spread, (UNITS, n_embd)).astype(np.float32),
        "b": np.full(UNITS, 0.5, np.float32),
        "Z": random.normal(0, 0.01, (UNITS, n_embd)).astype(np.float32),
    }


def _steered(now: Parameters, scale: float, h: Array) -> Array:
    gates = np.maximum(_normed(h) @ now["W"].T + now["b"], 0)
    return np.asarray(h + scale * (gates @ now["Z"]), np.float32)


def _slopes(head: Head, now: Parameters, scale: float, h: Array, p: Array) -> Parameters:
    """Return the slopes of a batch's mean loss by the parameters."""
    x = _normed(h)
    gates = np.maximum(x @ now["W"].T + now["b"], 0)
    added = scale * head.loss(_steered(now, scale, h), p)[1]
    opened = (added @ now["Z"].T) * (gates > 0)
    return {"W": opened.T @ x, "b": opened.sum(axis=0), "Z": gates.T @ added}


class _AdamW:
    """AdamW over so many steps."""

    def __init__(self, n_steps: int) -> None:
        self._n_steps, self._step = n_steps, 0
        self._mean: Parameters = {}
        self._square: Parameters = {}

    def step(self, now: Parameters, slopes: Parameters) -> Parameters:
        """Return the parameters after one step more."""
        rate = RATE * (1 - self._step / self._n_steps)
        self._step += 1
        moved = {}
        for name, slope in slopes.items():
            mean = _BETAS[0] * self._mean.get(name, 0) + (1 - _BETAS[0]) * slope
            square = _BETAS[1] * self._square.get(name, 0) + (1 - _BETAS[1]) * slope**2
            self._mean[name], self._square[name] = mean, square
            even = mean / (1 - _BETAS[0] ** self._step)
            size = np.sqrt(square / (1 - _BETAS[1] ** self._step)) + _TINY
            left = (1 - rate * _DECAY) * now[name]
            moved[name] = np.asarray(left - rate * even / size, np.float32)
        return moved


def _normed(h: Array) -> Array:
    return np.asarray(h / np.sqrt((h**2).mean(axis=1, keepdims=True)), np.float32)
