"""A figure over prompts, and how far it could be off by the choice of prompts.

    ratio         r = sum of over / sum of under, one term of each for every prompt. Its interval
                  are the 2.5 % and 97.5 % quantiles of r when the prompts are drawn anew, with
                  replacement, as many as there are (the percentile bootstrap; Efron 1979).
    change        r of later terms less r of earlier ones; both are drawn anew with the same
                  prompts.
    share         k of n prompts. Its interval is Wilson's (1927), because resampling n successes
                  out of n would claim certainty.
    share_change  a later share less an earlier one of the same prompts. Its interval is Newcombe's
                  (1998, method 10, from Wilson's), for the same reason.

Terms are of what was drawn on its own: of answers that belong together, such as those to one
script, the sums are one term. For a share of such, Wilson's n is the number of terms (if they are
unequal, (sum of asked)^2 / sum of asked^2), as if all answers of one were alike: none vary more.
One term alone has no interval.

The bootstrap knows nothing of prompts unlike those it was given, and of a handful of them its
interval is somewhat too narrow; see `n_prompts` beside every figure.
"""

import math
from collections.abc import Callable, Mapping
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
    terms = np.stack([np.asarray(over, np.float64), np.asarray(under, np.float64)])
    return _estimate(terms, lambda sums: sums[:, 0] / sums[:, 1], seed)


def change(
    later: tuple[ArrayLike, ArrayLike], earlier: tuple[ArrayLike, ArrayLike], *, seed: int = 0
) -> Estimate:
    """Return the ratio of `later` less that of `earlier`, with its bootstrap interval.

    Each is (over, under) as in `ratio`, over the same prompts in the same order.
    """
    terms = np.stack([np.asarray(some, np.float64) for some in (*later, *earlier)])
    return _estimate(terms, lambda sums: sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3], seed)


def _estimate(
    terms: NDArray[np.float64],
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    seed: int,
) -> Estimate:
    """Return a value of sums over prompts; `terms` are (n_terms, n_prompts), odd ones divide."""
    n = terms.shape[1]
    whole = terms.sum(axis=1)[None]
    if not whole[:, 1::2].all():
        return NO_ESTIMATE
    if n < 2:
        return Estimate(float(value(whole)[0]), None)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(n, size=n) for _ in range(_RESAMPLES))
    sums = np.array([terms[:, draw].sum(axis=1) for draw in draws])
    sums = sums[(sums[:, 1::2] != 0).all(axis=1)]
    low, high = np.quantile(value(sums), _QUANTILES)
    return Estimate(float(value(whole)[0]), (float(low), float(high)))


def share(kept: ArrayLike, asked: ArrayLike | None = None) -> Estimate:
    """Return the share of answers that were kept, with Wilson's interval.

    Args:
        kept: whether each was, or how many of each term's, (n_terms,).
        asked: how many answers each term has, (n_terms,); default: one.
    """
    p, n, _ = _counted(kept, asked)
    if not n:
        return NO_ESTIMATE
    return Estimate(p, _wilson(p, n) if n > 1 else None)


def share_change(
    later: ArrayLike, earlier: ArrayLike, asked: ArrayLike | None = None
) -> Estimate:
    """Return the share of `later` less that of `earlier`, with Newcombe's interval.

    Both are as in `share`, over the same terms in the same order.
    """
    (p, n, own), (q, _, others) = _counted(later, asked), _counted(earlier, asked)
    if not n:
        return NO_ESTIMATE
    if n <= 1:
        return Estimate(p - q, None)
    together = n * float((own * others).sum())
    if together > 0:
        together = max(together - 1 / (2 * n), 0.0)
    apart = math.sqrt(p * (1 - p) * q * (1 - q))
    phi = together / apart if apart else 0.0
    (p_low, p_high), (q_low, q_high) = _wilson(p, n), _wilson(q, n)

    def away(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))

    return Estimate(p - q, (p - q - away(p - p_low, q_high - q),
                            p - q + away(p_high - p, q - q_low)))  # fmt: skip


def _counted(
    kept: ArrayLike, asked: ArrayLike | None
) -> tuple[float, float, NDArray[np.float64]]:
    """Return the share, for how many equal terms all stand, and how far each moves the share."""
    kept = np.asarray(kept, np.float64)
    asked = np.ones(len(kept)) if asked is None else np.asarray(asked, np.float64)
    if not (total := asked.sum()):
        return 0.0, 0.0, kept
    p = float(kept.sum() / total)
    return p, float(total**2 / (asked**2).sum()), (kept - p * asked) / total


def _wilson(p: float, n: float) -> tuple[float, float]:
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def as_json(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of figures as JSON values.

    Beside every estimate, list of estimates or mapping of estimates stands its `<key>_interval`, of
    the same form.
    """
    told: dict[str, Any] = {}
    for key, value in figures.items():
        if isinstance(value, Estimate):
            told[key], told[f"{key}_interval"] = value.as_json()
        elif _are_estimates(value):
            names = value if isinstance(value, Mapping) else range(len(value))
            pairs = [value[name].as_json() for name in names]
            for suffix, some in zip(("", "_interval"), zip(*pairs, strict=True), strict=True):
                by_name = dict(zip(names, some, strict=True))
                told[key + suffix] = by_name if isinstance(value, Mapping) else list(some)
        else:
            told[key] = as_json(value) if isinstance(value, Mapping) else value
    return told


def _are_estimates(value: Any) -> bool:
    some = list(value.values()) if isinstance(value, Mapping) else value
    return isinstance(some, list) and bool(some) and all(isinstance(x, Estimate) for x in some)
