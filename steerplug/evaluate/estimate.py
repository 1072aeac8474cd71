"""A figure over prompts, and how far it could be off by the choice of prompts.

    ratio   r = sum of over / sum of under, one term of each for every prompt. Its interval are the
            2.5 % and 97.5 % quantiles of r when the prompts are drawn anew, with replacement, as
            many as there are (the percentile bootstrap; Efron 1979).
    share   k of n prompts. Its interval is Wilson's (1927), because resampling n successes out of
            n would claim certainty.

The bootstrap knows nothing of prompts unlike those it was given, and of a handful of them its
interval is somewhat too narrow; see `n_prompts` beside every figure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 2000
_QUANTILES = (0.025, 0.975)
_Z = 1.959964  # the 97.5 % quantile of the normal distribution
_DIGITS = 5


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None where there was nothing to measure it on."""

    value: float | None
    interval: tuple[float, float] | None

    def as_json(self) -> tuple[float | None, list[float] | None]:
        """Return value and interval as JSON values."""
        interval = [round(end, _DIGITS) for end in self.interval] if self.interval else None
        return None if self.value is None else round(self.value, _DIGITS), interval


NO_ESTIMATE = Estimate(None, None)


def ratio(over: ArrayLike, under: ArrayLike, *, seed: int = 0) -> Estimate:
    """Return sum(over) / sum(under), each (n_prompts,), with its bootstrap interval.

    Resamples without anything to divide by are left out. One prompt alone has no interval.
    """
    a, b = np.asarray(over, np.float64), np.asarray(under, np.float64)
    if not b.sum():
        return NO_ESTIMATE
    if len(b) < 2:
        return Estimate(float(a.sum() / b.sum()), None)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(b), size=len(b)) for _ in range(_RESAMPLES))
    sums: NDArray[Any] = np.array([(a[draw].sum(), b[draw].sum()) for draw in draws])
    sums = sums[sums[:, 1] != 0]
    low, high = np.quantile(sums[:, 0] / sums[:, 1], _QUANTILES)
    return Estimate(float(a.sum() / b.sum()), (float(low), float(high)))


def share(answers: Sequence[bool]) -> Estimate:
    """Return the share of True among yes-or-no answers, with Wilson's interval."""
    n = len(answers)
    if not n:
        return NO_ESTIMATE
    p = sum(answers) / n
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return Estimate(p, (max(middle - half, 0.0), min(middle + half, 1.0)))
