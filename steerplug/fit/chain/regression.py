"""The map of a block: from the direction of a row to what the row lacks, by regression.

    A = argmin sum_i w_i |x_i A - d_i|^2 + ridge |A|^2
    w_i = 1 / (1 + |d_i|^2 / mean |d|^2)        x, d: centred, every column over its own deviation
    delta(h) = mean(d) + Z^T . W . (rms(h) - mean(x))        Z = V_k^T, W = (A V_k)^T

with W and Z scaled back. V_k are the k leading right singular vectors of the fitted values X A, so
this is the rank-k map that keeps most of what the ridge regression predicts. By the weights w, in
which d is not centred, a row counts for one at most, however much it lacks: a reply's first tokens
lack far more than its later ones, and without weights the map serves little else.

Shapes: X, D (n_rows, n_embd); w (n_rows,); A (n_embd, n_embd); W, Z (k, n_embd). `ridge` is a
share of the mean squared length of a row of X, chosen on rows that the map has not seen. Of the
rows only sums are kept (X^T w X, X^T w D).
Source: reduced-rank regression, Izenman 1975; weights, Cauchy's, as in Holland & Welsch 1977.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from steerplug.steering.value import Array, Delta

RIDGES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_TINY = 1e-12
_HELD_BACK = 2
"""So many parts choose the ridge, one at a time."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sums:
    """What a regression needs to know of rows: weighted sums of 1, x, d, their products and d^2."""

    n: float
    x: Float64
    d: Float64
    xx: Float64
    xd: Float64
    dd: Float64

    @staticmethod
    def of(present: Array, missing: Array, weights: Array) -> "Sums":
        """Add up rows of h and of what it lacks, (n_rows, n_embd) each, by weights (n_rows,)."""
        h, d = present.astype(np.float64), missing.astype(np.float64)
        x = h / np.sqrt((h**2).mean(axis=1, keepdims=True))
        wx, wd = weights[:, None] * x, weights[:, None] * d
        n = float(weights.sum())
        return Sums(n, wx.sum(axis=0), wd.sum(axis=0), wx.T @ x, wx.T @ d, (wd * d).sum(axis=0))

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


def weights_of(missing: Array) -> Array:
    """Return how much each row counts, (n_rows,), given what rows lack, (n_rows, n_embd)."""
    size = _size(missing.var(axis=0, dtype=np.float64)).astype(np.float32)
    lengths = ((missing / size) ** 2).mean(axis=1)
    return np.asarray(1 / (1 + lengths / max(lengths.mean(), _TINY)), np.float32)


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
