"""`chain`: a teacher distilled without gradients, block by block, each seeing those below steered.

At block il, with the blocks below already steered, over all lesson rows::

    X = activations of the bare chat      D = activations of the prompted chat - X
    A = argmin |Xc A - Dc|^2 + ridge |A|^2          c: centred over the rows
    delta(h) = mean(D) + Z^T . W . (h - mean(X))    Z = V_k^T, W = (A V_k)^T

V_k are the k leading right singular vectors of the fitted values Xc A, so this is the rank-k map
that keeps most of what the ridge regression predicts (reduced-rank regression).

Shapes: X, D (n_rows, n_embd); A (n_embd, n_embd); W, Z (k, n_embd). `ridge` is a share of the mean
squared length of a centred row, chosen per block on rows of lessons that the fit has not seen.
Source: DESIGN section 3; reduced-rank regression, Izenman 1975.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerplug.engine.cells import Cells
from steerplug.engine.context import Row
from steerplug.engine.scope import plan
from steerplug.fit.activations import capture
from steerplug.fit.progress import Report, silent, steps
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Scope, Steering

RANK = 8
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3)
_HELD_BACK = 6
"""Every sixth lesson is kept out of a block's regression, to choose its ridge on."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Chain:
    """What is being distilled: for which model, under which name, in which scope."""

    name: str
    n_embd: int
    n_layer: int
    scope: Scope


def fit_chain(
    chain: Chain,
    cells: Cells,
    lessons: Sequence[Lesson],
    layers: Sequence[int],
    *,
    rank: int = RANK,
    report: Report = silent,
) -> Steering:
    """Return the steering that brings the bare chat to the prompted one, block after block."""
    wanted = _prompted(cells, lessons, layers, report)
    seen = np.repeat([i % _HELD_BACK != 0 for i in range(len(lessons))],
                     [lesson.n_rows for lesson in lessons])
    deltas: dict[int, Delta] = {}
    for i, il in enumerate(steps(list(layers), "distilling block by block", report)):
        below = _mix(chain, deltas)
        present = np.concatenate([_steered(cells, lesson, below, il) for lesson in lessons])
        deltas[il] = regress(present, wanted[:, i] - present, seen, rank)
    return Steering(chain.name, chain.n_embd, chain.n_layer, deltas, chain.scope)


def regress(present: Array, missing: Array, seen: NDArray[np.bool_], rank: int) -> Delta:
    """Return the rank-k affine map from `present` to `missing` rows, both (n_rows, n_embd).

    `seen` says which rows to regress on, (n_rows,); the ridge is chosen on the others.
    """
    x, d = present.astype(np.float64), missing.astype(np.float64)
    mean_x, mean_d = x[seen].mean(axis=0), d[seen].mean(axis=0)
    x, d = x - mean_x, d - mean_d
    solve = _ridge_solver(x[seen], d[seen])
    fits = [_cut(x[seen], solve(ridge), rank) for ridge in RIDGES]
    errors = [((d[~seen] - x[~seen] @ W.T @ Z) ** 2).sum() for W, Z in fits]
    W, Z = fits[int(np.argmin(errors))] if (~seen).any() else fits[len(fits) // 2]
    return Delta.affine(
        z=np.asarray(mean_d, np.float32), W=np.asarray(W, np.float32),
        b=np.asarray(-W @ mean_x, np.float32), Z=np.asarray(Z, np.float32),
    )


def _ridge_solver(x: Float64, d: Float64) -> Callable[[float], Float64]:
    """Return ridge -> A, all from one decomposition of x."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ d
    scale = float((x**2).sum()) / len(x)

    def solve(ridge: float) -> Float64:
        shrink = s / (s**2 + ridge * scale)
        return np.asarray(vt.T @ (shrink[:, None] * projected))

    return solve


def _cut(x: Float64, A: Float64, rank: int) -> tuple[Float64, Float64]:
    """Return (W, Z) of the rank-k part of x @ A."""
    fitted = x @ A
    _, vectors = np.linalg.eigh(fitted.T @ fitted)
    Z = vectors[:, ::-1][:, :rank].T
    return (A @ Z.T).T, Z


def _mix(chain: Chain, deltas: dict[int, Delta]) -> Mix:
    if not deltas:
        return NOTHING
    return Mix.of(Steering(chain.name, chain.n_embd, chain.n_layer, deltas, chain.scope))


def _prompted(
    cells: Cells, lessons: Sequence[Lesson], layers: Sequence[int], report: Report
) -> Array:
    """Return the prompted activations of all lesson rows: (n_rows, n_blocks, n_embd)."""
    rows = [
        capture(cells, (*lesson.prompted.tokens, *lesson.reply), layers,
                len(lesson.prompted.tokens) - 1)
        for lesson in steps(lessons, "reading the prompted model", report)
    ]
    return np.concatenate(rows, axis=1).transpose(1, 0, 2)


def _steered(cells: Cells, lesson: Lesson, mix: Mix, il: int) -> Array:
    """Return the bare chat's rows at block il under `mix`: (n_rows of the lesson, n_embd)."""
    tokens = (*lesson.bare.tokens, *lesson.reply)
    laid = plan(mix, lesson.bare)
    applied = [*laid.prompt, *[laid.generated] * len(lesson.reply)]
    first = len(lesson.bare.tokens) - 1
    rows = [Row(token, i, False, applied[i]) for i, token in enumerate(tokens)]
    same = cells.reuse(rows[:first])
    for _ in cells.decode(rows[same:first]):
        pass
    return cells.peek(rows[first:], il)
