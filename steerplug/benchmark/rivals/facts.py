"""What each kind of carrier can and cannot do in llama.cpp, whatever it was trained on.

    shares_batch   whether replies with different ones can be made in one batch
    strength       whether it can be turned up and down
    minus          whether its opposite can be asked for
    sums           whether two that were made apart can be used together

These are facts about mechanisms, not measurements.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["none", "prompt", "steering", "soft prompt", "K/V prefix", "LoRA"]


@dataclass(frozen=True)
class Facts:
    """What one kind can do, and why."""

    shares_batch: bool
    strength: bool
    minus: bool
    sums: bool
    why: str


_CELLS = (
    "cells of a sequence are its own, so any share a batch; a cell is there or is not, and has no "
    "opposite; cells that were trained apart were never read together"
)

FACTS: dict[Kind, Facts] = {
    "none": Facts(True, False, False, False, "nothing is added"),
    "prompt": Facts(
        True, False, False, True,
        "cells of a sequence are its own, so any share a batch; a text has no strength but 1, and "
        "two texts can stand in one prompt",
    ),
    "steering": Facts(
        True, True, True, True,
        "each row of a batch has its own terms, each with its strength, of either sign, summed",
    ),
    "soft prompt": Facts(True, False, False, False, _CELLS),
    "K/V prefix": Facts(True, False, False, False, _CELLS),
    "LoRA": Facts(
        False, True, True, True,
        "llama_set_adapters_lora holds for a whole context, so rows that are decoded together have "
        "the same adapters; each has a scale, of either sign, and several are summed",
    ),
}  # fmt: skip
