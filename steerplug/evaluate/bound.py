"""When steering keeps up with its prompt well enough to take its place unasked.

    gap closed                       >= 0.75
    checks kept, prompted - steered  <= 0.10

What was not measured, as of imported steering and contrasts, is not held against it. Figures are of
one strength; at another, the gap closed is read off the sweep, linearly between its points.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from steerplug.store.figures import number

LEAST_GAP_CLOSED = 0.75
MOST_CHECKS_LOST = 0.10


def shortfall(fidelity: Mapping[str, Any], strength: float) -> str:
    """Say how steering falls short of its prompt, or nothing.

    Args:
        fidelity: what was measured of its fit.
        strength: at which it is used.
    """
    closed = gap_closed_at(fidelity, strength)
    if closed is not None and closed < LEAST_GAP_CLOSED:
        return f"closes {closed:.0%} of the gap to its prompt, less than {LEAST_GAP_CLOSED:.0%}"
    checks = fidelity.get("checks")
    kept = checks if isinstance(checks, Mapping) else {}
    match number(kept.get("prompted")), number(kept.get("steered")):
        case float(prompted), float(steered) if prompted - steered > MOST_CHECKS_LOST:
            return f"keeps {steered:.0%} of its checks, and its prompt {prompted:.0%}"
    return ""


def gap_closed_at(fidelity: Mapping[str, Any], strength: float) -> float | None:
    """Return how much of the gap steering closes at a strength, as far as that was measured."""
    swept = fidelity.get("sweep")
    sweep: Mapping[str, Any] = swept if isinstance(swept, Mapping) else {}
    measured_at = number(fidelity.get("strength", sweep.get("default")))
    points = sorted(_points(sweep.get("points")))
    if measured_at in (None, strength) or not points:
        return number(fidelity.get("gap_closed"))
    strengths, closed = zip(*points, strict=True)
    return float(np.interp(strength, strengths, closed))


def _points(told: object) -> Iterator[tuple[float, float]]:
    """Yield strengths of a sweep, and the gap closed there."""
    for point in told if isinstance(told, list | tuple) else ():
        if isinstance(point, Mapping):
            at, closed = number(point.get("strength")), number(point.get("gap_closed"))
            if at is not None and closed is not None:
                yield at, closed
