"""The figures of a preset that a listing has room for; `steerplug eval` shows them all.

A fidelity report may be a stranger's: whatever it holds, the worst that is said is "not measured".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOT_MEASURED = "-"


@dataclass(frozen=True)
class Figures:
    """How well steering works on a model, and whose word that is.

    Args:
        model: its fingerprint.
        fidelity: the fidelity report; may be empty.
        claimed_by: the pack whose author says so, such as "sea@1.2.0"; empty where it is no claim.
    """

    model: str
    fidelity: Mapping[str, Any]
    claimed_by: str = ""

    def cells(self) -> tuple[str, str, str]:
        """Return gap closed, checks kept and prompt tokens saved.

        What is claimed says so, and what is of a quick fit.
        """
        texts = (figure(self.fidelity) for figure in (gap_closed, checks_kept, tokens_saved))
        gap, checks, tokens = map(self._marked, texts)
        return f"{gap} quick" if is_quick(self.fidelity) else gap, checks, tokens

    def _marked(self, figure: str) -> str:
        return f"{figure} claimed" if self.claimed_by and figure != NOT_MEASURED else figure


def number(value: object) -> float | None:
    """Return a finite number, or None for whatever else a report may hold."""
    if not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def is_quick(fidelity: Mapping[str, Any]) -> bool:
    """Whether it is of a quick fit, of few replies, measured on few questions."""
    return fidelity.get("quick") is True


def gap_closed(fidelity: Mapping[str, Any]) -> str:
    """Return how much of the gap to its prompt a preset closes: `91% (89 to 92)`."""
    value, interval = number(fidelity.get("gap_closed")), fidelity.get("gap_closed_interval")
    if value is None:
        return NOT_MEASURED
    match [number(end) for end in interval] if isinstance(interval, list | tuple) else []:
        case [float(low), float(high)]:
            return f"{value:.0%} ({100 * low:.0f} to {100 * high:.0f})"
    return f"{value:.0%}"


def checks_kept(fidelity: Mapping[str, Any], way: str = "steered") -> str:
    """Return the share of bare, prompted or steered replies that keep the preset's checks."""
    checks = fidelity.get("checks")
    value = number(checks.get(way)) if isinstance(checks, dict) else None
    return NOT_MEASURED if value is None else f"{value:.0%}"


def tokens_saved(fidelity: Mapping[str, Any]) -> str:
    """Return how many prompt tokens a preset takes the place of, in every request."""
    value = number(fidelity.get("prompt_tokens_saved"))
    return f"{value:.0f}" if value else NOT_MEASURED


def safe_range(fidelity: Mapping[str, Any]) -> str:
    """Return the strengths at which replies read well: `0 to 1.5`."""
    swept = fidelity.get("sweep")
    known = swept if isinstance(swept, dict) else {}
    match number(known.get("safe_min")), number(known.get("safe_max")):
        case float(low), float(high):
            return f"{low:g} to {high:g}"
    return NOT_MEASURED
