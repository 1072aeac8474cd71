"""Steering kept for nearly this model: another quantisation, version or LoRA, same chat template.

It is used with a warning where there is none for the very model, because it was fitted on the same
blocks and the same prompts. How well it does here is for `steerplug eval` to say, and then kept.

Other models have blocks of the same shape, and families share a template: Qwen2.5-Coder is no
quantisation of Qwen2.5. They are told apart by the gains of norms, which quantising and LoRA leave
alone; a file that does not tell them is taken by shape and template.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from steerplug.errors import SteeringError
from steerplug.steering.file import read_steering
from steerplug.steering.header import kept_files
from steerplug.store.figures import NOT_MEASURED, gap_closed
from steerplug.store.store import Key, Made, Store


def find_near(
    key: Key, outer_norms: str, folders: Iterable[Path], check: Callable[[Path], None], *,
    n_embd: int, n_layer: int,
) -> tuple[Made, Path] | None:  # fmt: skip
    """Return the steering that answers `key` but for the model's file, and its path, or None.

    Everything else agrees: preset, method, chat template, version of the fit, architecture, width,
    depth and, where both are known, `outer_norms`. A file that is damaged is passed over; `check`
    may refuse one before it is read.
    """
    for path, claims in kept_files(key.preset, folders):
        if is_another(outer_norms, str(claims.get("outer_norms", ""))):
            continue
        model = str(claims.get("model"))
        nearly = replace(key, model=model)
        if _kind(model) != _kind(key.model) or Store(path.parent.parent).path(nearly) != path:
            continue
        check(path)
        try:
            steering, identity = read_steering(path, n_embd=n_embd, n_layer=n_layer)
        except SteeringError:
            continue
        if identity and nearly.is_of(identity):
            return (steering, identity), path
    return None


def is_another(outer_norms: str, other: str) -> bool:
    """Whether two `Model.outer_norms` are of different models; an empty one tells nothing."""
    return bool(outer_norms and other) and outer_norms != other


def warning(preset: str, model: str, measured: Mapping[str, Any] | None) -> str:
    """Say that a near miss is used, and what `steerplug eval` measured of it here, if it did."""
    gap = gap_closed(measured or {})
    if measured is None:
        known = "`steerplug eval` measures it here"
    elif gap == NOT_MEASURED:
        known = "It was measured here"
    else:
        known = f"Measured here, it closes {gap} of the gap to its prompt"
    return (
        f"`{preset}` was built for another quantisation, version or LoRA of {model}; it is used as "
        f"it is. {known}; `steerplug build` makes it for this file."
    )


def _kind(fingerprint: str) -> str:
    """Return architecture, width and depth of a model's fingerprint, without its hash."""
    return fingerprint.rpartition("-")[0]
