"""The figures of a preset that a listing has room for; `steerplug eval` shows them all."""

from collections.abc import Mapping
from typing import Any

NOT_MEASURED = "-"


def gap_closed(fidelity: Mapping[str, Any]) -> str:
    """Return how much of the gap to its prompt a preset closes: `91% (89 to 92)`."""
    value, interval = fidelity.get("gap_closed"), fidelity.get("gap_closed_interval")
    if not isinstance(value, int | float):
        return NOT_MEASURED
    match interval:
        case [int() | float() as low, int() | float() as high]:
            return f"{value:.0%} ({100 * low:.0f} to {100 * high:.0f})"
    return f"{value:.0%}"


def checks_kept(fidelity: Mapping[str, Any]) -> str:
    """Return the share of steered replies that keep the preset's checks."""
    checks = fidelity.get("checks")
    value = checks.get("steered") if isinstance(checks, dict) else None
    return f"{value:.0%}" if isinstance(value, int | float) else NOT_MEASURED


def tokens_saved(fidelity: Mapping[str, Any]) -> str:
    """Return how many prompt tokens a preset takes the place of, in every request."""
    value = fidelity.get("prompt_tokens_saved")
    return f"{value:.0f}" if isinstance(value, int | float) and value else NOT_MEASURED

