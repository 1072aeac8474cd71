"""When steering keeps up with its prompt well enough to take its place unasked.

    gap closed                       >= 0.75
    checks kept, prompted - steered  <= 0.10

What was not measured, as of imported steering and contrasts, is not held against it.
"""

from collections.abc import Mapping
from typing import Any

from steerplug.store.figures import number

LEAST_GAP_CLOSED = 0.75
MOST_CHECKS_LOST = 0.10


def shortfall(fidelity: Mapping[str, Any]) -> str:
    """Say how steering falls short of its prompt, or nothing.

    Args:
        fidelity: what was measured of its fit.
    """
    closed = number(fidelity.get("gap_closed"))
    if closed is not None and closed < LEAST_GAP_CLOSED:
        return f"closes {closed:.0%} of the gap to its prompt, less than {LEAST_GAP_CLOSED:.0%}"
    checks = fidelity.get("checks")
    kept = checks if isinstance(checks, Mapping) else {}
    match number(kept.get("prompted")), number(kept.get("steered")):
        case float(prompted), float(steered) if prompted - steered > MOST_CHECKS_LOST:
            return f"keeps {steered:.0%} of its checks, and its prompt {prompted:.0%}"
    return ""
