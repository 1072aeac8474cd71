"""What carries a preset on one model now, if nobody says a carrier."""

from dataclasses import dataclass

from steerplug.build import Built
from steerplug.evaluate.bound import shortfall
from steerplug.preset import Preset

NOT_COMPILED = "not compiled for this model"


@dataclass(frozen=True)
class Carrying:
    """What carries a preset.

    Args:
        built: its steering for the model, if it is compiled.
        reason: why steering does not carry it; empty where it does.
        n_tokens: how many tokens its prompt is in each request; None where none can carry it.
    """

    built: Built | None
    reason: str
    n_tokens: int | None

    @property
    def carrier(self) -> str | None:
        """What brings it into a reply; None: nothing can, until it is compiled."""
        if not self.reason:
            return "steering"
        return None if self.n_tokens is None else "prompt"


def why_prompt(preset: Preset, built: Built | None) -> str:
    """Say why steering does not carry a preset unasked; nothing where it does."""
    if built is None:
        return NOT_COMPILED
    return shortfall(built.identity.fidelity, built.default_strength(preset))
