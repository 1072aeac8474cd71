"""Whether fitted steering does anything on a model: what does not work is no preset there.

A teacher's closes some of the gap to its prompt. A contrast's has a dial (see `fit.measure`): what
a turn of the strength does at its least, as a share of what the contrast's own texts do as prompts.
Imported steering has neither, and is taken as it is.
"""

from collections.abc import Mapping
from typing import Any

from steerplug.errors import FitError
from steerplug.store.figures import number

WEAK = 0.05
"""A dial below this hardly shows in replies."""


def works(fidelity: Mapping[str, Any]) -> bool:
    """Whether every turn of a contrast's strength moves replies its way; others have no dial."""
    dial = number(fidelity.get("dial"))
    return dial is None or dial > 0


def check_dial(preset: str, model: str, fidelity: Mapping[str, Any]) -> None:
    """Refuse the steering of a contrast that does nothing on a model, or turns the wrong way.

    Args:
        preset: the preset's name.
        model: what to call the model.
        fidelity: what was measured of its fit.

    Raises:
        FitError: its dial is not above zero.
    """
    if not works(fidelity):
        raise FitError(
            f"`{preset}` does not work on {model}: turning its strength up does not always move "
            f"replies its way (by {fidelity['dial']:.0%} of what its texts do as prompts, where it "
            "moves them least); give the contrast more or clearer texts, or a teacher instead."
        )


def check_gap_closed(preset: str, closed: float | None) -> None:
    """Refuse the steering of a teacher that does not bring the bare model nearer to the prompted.

    Args:
        preset: the preset's name.
        closed: the share of the gap to its prompt that it closes, measured in llama.cpp.

    Raises:
        FitError: it closes none.
    """
    if closed is None or closed <= 0:
        raise FitError(
            f"`{preset}` was fitted, but closes {closed or 0:.0%} of the gap to its prompt on "
            "this model; give the teacher example turns that the model follows."
        )


def is_weak(fidelity: Mapping[str, Any]) -> bool:
    """Whether the steering of a contrast hardly does anything."""
    dial = number(fidelity.get("dial"))
    return dial is not None and dial < WEAK


def weakness(preset: str, model: str) -> str:
    """Say that a preset hardly does anything, and what may help."""
    return (
        f"`{preset}` hardly does anything on {model}; give the contrast more or clearer texts, or "
        "a teacher instead."
    )
