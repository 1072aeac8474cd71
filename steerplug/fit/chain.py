"""`chain`: a teacher distilled without gradients, block by block, each seeing those below steered.

At block il, with the blocks below already steered, over all paired rows::

    x = rms(h) of the bare chat      d = h of the prompted chat - h of the bare chat
    A = argmin |X A - D|^2 + ridge |A|^2        X, D: centred, every column over its own deviation
    delta(h) = mean(d) + Z^T . W . (rms(h) - mean(x))        Z = V_k^T, W = (A V_k)^T

with W and Z scaled back. V_k are the k leading right singular vectors of the fitted values X A, so
this is the rank-k map that keeps most of what the ridge regression predicts (reduced-rank
regression). Rows of a lesson are the boundary token and the reply's tokens; in scope `all` also the
tokens before them that both prompts end with.

Shapes: X, D (n_rows, n_embd); A (n_embd, n_embd); W, Z (k, n_embd). `ridge` is a share of the mean
squared length of a row of X, chosen per block on lessons that the fit has not seen. Of the rows at
a block only sums are kept (X^T X, X^T D), and what the prompted model has there is read for as many
blocks at a time as 256 MB hold.
Source: DESIGN section 3; reduced-rank regression, Izenman 1975.
"""

import functools
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from steerplug.engine.reader import Reader, reply_rows
from steerplug.fit.activations import capture
from steerplug.fit.progress import Report, silent, steps
from steerplug.fit.teacher import Lesson, n_common
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Scope, Steering

RANK = 64
RIDGES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_PARTS, _HELD_BACK = 4, 2
"""Lessons are dealt into four parts; the ridge is chosen on the first two, one at a time.

A part is summed up at once: after every product BLAS leaves threads spinning, which take processors
from the next decode.
"""

_MOST_BYTES = 2**28

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Chain:
    """What is being distilled: for which model, under which name, in which scope."""

    name: str
    n_embd: int
    n_layer: int
    scope: Scope


@dataclass(frozen=True, eq=False)
class Sums:
    """What a regression needs to know of rows: sums over them of x, d, their products and d^2."""

    n: float
    x: Float64
    d: Float64
    xx: Float64
    xd: Float64
    dd: Float64

    @staticmethod
    def of(present: Array, missing: Array) -> "Sums":
        """Add up rows of h and of what it lacks, (n_rows, n_embd) each."""
        h, d = present.astype(np.float64), missing.astype(np.float64)
        x = h / np.sqrt((h**2).mean(axis=1, keepdims=True))
        return Sums(len(x), x.sum(axis=0), d.sum(axis=0), x.T @ x, x.T @ d, (d**2).sum(axis=0))

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Sums)))

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(Sums)))

    def about(self, origin: "Sums") -> "Sums":
        """Return the sums of the same rows, centred and scaled as `origin` has mean and size."""
        m, e = origin.x / origin.n, origin.d / origin.n
        size_x = _size(np.diag(origin.xx) / origin.n - m**2)
        size_d = _size(origin.dd / origin.n - e**2)
        x, d = self.x - self.n * m, self.d - self.n * e
        xx = self.xx - np.outer(m, self.x) - np.outer(x, m)
        xd = self.xd - np.outer(m, self.d) - np.outer(x, e)
        dd = self.dd - 2 * e * self.d + self.n * e**2
        return Sums(self.n, x / size_x, d / size_d, xx / np.outer(size_x, size_x),
                    xd / np.outer(size_x, size_d), dd / size_d**2)  # fmt: skip


def fit_chain(
    chain: Chain,
    cells: Reader,
    lessons: Sequence[Lesson],
    layers: Sequence[int],
    *,
    rank: int = RANK,
    known: MutableMapping[int, Delta] | None = None,
    report: Report = silent,
) -> Steering:
    """Return the steering that brings the bare chat to the prompted one, block after block.

    Args:
        chain: what is distilled.
        cells: of a context on the model.
        lessons: replies of the prompted model.
        layers: the blocks to steer, rising.
        rank: k.
        known: blocks that are fitted already; each new one is put in.
        report: told how far the work is.
    """
    deltas = {} if known is None else known
    rows = sum(_n_paired(chain, lesson) for lesson in lessons)
    at_once = n_read_together(rows, chain.n_embd)
    common = n_common([lesson.bare.tokens for lesson in lessons])
    left = [il for il in layers if il not in deltas]
    for begin in range(0, len(left), at_once):
        some = left[begin : begin + at_once]
        wanted = _prompted(chain, cells, lessons, some, report)
        for i, il in enumerate(some):
            report("distilling block by block", len(layers) - len(left) + begin + i, len(layers))
            below = _mix(chain, {lower: deltas[lower] for lower in layers if lower < il})
            parts = []
            for part in range(min(_PARTS, len(lessons))):
                read = [_steered(chain, cells, lesson, common, below, il)
                        for lesson in lessons[part::_PARTS]]
                present = np.concatenate(read)
                prompted = np.concatenate([rows[i] for rows in wanted[part::_PARTS]])
                parts.append(Sums.of(present, prompted - present))
            deltas[il] = regress(parts, rank)
    report("distilling block by block", len(layers), len(layers))
    return Steering(
        chain.name, chain.n_embd, chain.n_layer, {il: deltas[il] for il in layers}, chain.scope
    )


def n_read_together(n_rows: int, n_embd: int) -> int:
    """Return for how many blocks at a time the prompted model is read."""
    return max(_MOST_BYTES // (4 * n_rows * n_embd), 1)


def memory_needed(n_embd: int) -> int:
    """Return the bytes that it takes, about: rows of some blocks, and the sums over them."""
    return _MOST_BYTES + 8 * 2 * n_embd**2 * (_PARTS + 4)


def regress(parts: Sequence[Sums], rank: int) -> Delta:
    """Return the rank-k affine map from rms(h) to what h lacks; parts hold each other's ridge."""
    whole = functools.reduce(Sums.__add__, parts)
    errors = np.zeros(len(RIDGES))
    for part in parts[:_HELD_BACK] if len(parts) > 1 else ():
        held, solve = part.about(whole), _ridge_solver((whole - part).about(whole))
        errors += [_error(held, solve(ridge)) for ridge in RIDGES]
    ridge = RIDGES[int(np.argmin(errors))] if len(parts) > 1 else RIDGES[len(RIDGES) // 2]
    own = whole.about(whole)
    A = _ridge_solver(own)(ridge)
    V = np.linalg.eigh(A.T @ own.xx @ A)[1][:, -rank:]
    mean_x, mean_d = whole.x / whole.n, whole.d / whole.n
    W = (A @ V).T / _size(np.diag(whole.xx) / whole.n - mean_x**2)
    Z = V.T * _size(whole.dd / whole.n - mean_d**2)
    parts32 = (part.astype(np.float32) for part in (mean_d[None], W, -W @ mean_x, Z))
    z, w, b, out = parts32
    return Delta(z, w, b, out, act="identity", norm="rms")


def _size(variance: Float64) -> Float64:
    """Return deviations, 1 where nothing varies."""
    size = np.sqrt(np.maximum(variance, 0))
    return np.where(size > 1e-6 * size.max(initial=0), size, 1.0)


def _ridge_solver(sums: Sums) -> Callable[[float], Float64]:
    """Return ridge -> A, all from one decomposition."""
    values, vectors = np.linalg.eigh(sums.xx)
    values = np.maximum(values, 0)
    projected, length = vectors.T @ sums.xd, values.sum()
    return lambda ridge: np.asarray(vectors @ (projected / (values + ridge * length)[:, None]))


def _error(held: Sums, A: Float64) -> float:
    """Return |X A - D|^2 over the rows of `held`."""
    return float(held.dd.sum() - 2 * (A * held.xd).sum() + (A * (held.xx @ A)).sum())


def _mix(chain: Chain, deltas: dict[int, Delta]) -> Mix:
    if not deltas:
        return NOTHING
    return Mix.of(Steering(chain.name, chain.n_embd, chain.n_layer, deltas, chain.scope))


def _n_paired(chain: Chain, lesson: Lesson) -> int:
    """Return how many last rows of a lesson's two chats belong together."""
    if chain.scope == "response":
        return lesson.n_rows
    pairs = zip(reversed(lesson.prompted.tokens), reversed(lesson.bare.tokens), strict=False)
    return len(lesson.reply) + next(
        (i for i, (a, b) in enumerate(pairs) if a != b), len(lesson.bare.tokens)
    )


def _prompted(
    chain: Chain, cells: Reader, lessons: Sequence[Lesson], layers: Sequence[int], report: Report
) -> list[Array]:
    """Return the prompted activations of each lesson's rows: (n_blocks, n_rows, n_embd)."""
    return [
        capture(cells, (*lesson.prompted.tokens, *lesson.reply), layers,
                len(lesson.prompted.tokens) + len(lesson.reply) - _n_paired(chain, lesson))
        for lesson in steps(lessons, "reading the prompted model", report)
    ]  # fmt: skip


def _steered(
    chain: Chain, cells: Reader, lesson: Lesson, common: int, mix: Mix, il: int
) -> Array:
    """Return the bare chat's rows at block il under `mix`: (n_rows of the lesson, n_embd).

    The first `common` tokens, which all lessons share, stay in the cells; nothing else is computed
    above the block.
    """
    n_rows = _n_paired(chain, lesson)
    first = min(common, len(lesson.bare.tokens) + len(lesson.reply) - n_rows)
    # The last block computes only the rows whose logits are asked for.
    output_from = first if il == chain.n_layer - 1 else None
    rows = reply_rows(lesson.bare, lesson.reply, mix, output_from)
    cells.hold(rows[:first])
    return cells.peek(rows[first:], il)[-n_rows:]
