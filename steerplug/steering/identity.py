"""What a steering file says about itself, beyond its numbers.

Layers, scope, n_embd and n_layer belong to `Steering`; everything that tells where the numbers came
from and how strongly to use them is here. All fields are claims of the file's author: they are
checked for size and kind, and `Store` compares them with what was asked for.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from steerplug.errors import SteeringError
from steerplug.steering.terms import PRESET_NAME

MAX_TEXT = 256
MAX_FIDELITY = 65_536
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Identity:
    """Where a steering came from, and the strengths it was made for.

    Args:
        preset: the preset's name.
        preset_version: the preset's version, such as "1.0.0".
        preset_digest: hash of the preset's content.
        model: fingerprint of the model it was fitted on.
        architecture: that model's `general.architecture`, such as "llama".
        chat_template: hash of the chat template it was fitted with; empty if there was none.
        method: how it was fitted: "psr", "const", "chain", "mean", "pca", "actadd".
        seed: of everything random in the fit.
        steerplug_version: which steerplug made it.
        strength_default: the strength used when none is asked for.
        strength_min: the least strength the preset allows.
        strength_max: the greatest strength the preset allows.
        license: of the preset, such as "MIT"; may be empty.
        fidelity: the fidelity report as JSON values; may be empty.
        outer_norms: `Model.outer_norms` of the model it was fitted on; empty if that is not known.

    Raises:
        SteeringError: a text is too long or unprintable, a number is out of range, the strengths
            are not ordered, or `fidelity` is not JSON.
    """

    preset: str
    preset_version: str
    preset_digest: str
    model: str
    architecture: str
    chat_template: str
    method: str
    seed: int
    steerplug_version: str
    strength_default: float = 1.0
    strength_min: float = 0.0
    strength_max: float = 2.0
    license: str = ""
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    outer_norms: str = ""

    def __post_init__(self) -> None:
        if not PRESET_NAME.fullmatch(self.preset):
            raise SteeringError(
                f"the preset name {self.preset[:80]!r} is not allowed; use up to 64 of a-z, 0-9, "
                "`.`, `_` and `-`, beginning with a letter or digit."
            )
        for name in (f.name for f in fields(self) if f.type is str):
            check_text(name, getattr(self, name))
        if not 0 <= self.seed <= MAX_SEED:
            raise SteeringError(f"the seed is {self.seed}; choose one from 0 to {MAX_SEED}.")
        object.__setattr__(self, "seed", int(self.seed))
        for name in ("strength_default", "strength_min", "strength_max"):
            object.__setattr__(self, name, float(getattr(self, name)))
        strengths = (self.strength_min, self.strength_default, self.strength_max)
        if not all(map(math.isfinite, strengths)) or list(strengths) != sorted(strengths):
            raise SteeringError(
                f"the strengths min, default, max are {strengths}; give finite numbers in "
                "ascending order."
            )
        frozen = json.loads(fidelity_json(self.fidelity))
        object.__setattr__(self, "fidelity", MappingProxyType(frozen))


def chat_template_hash(template: str | None) -> str:
    """Return how a steering file names the chat template it was fitted with."""
    return hashlib.sha256((template or "").encode()).hexdigest()


def check_text(what: str, text: str) -> None:
    """Refuse a text that is too long for one line, or not printable."""
    if len(text) > MAX_TEXT or not text.isprintable():
        raise SteeringError(
            f"{what} is {text[:80]!r}; it must be printable text of at most {MAX_TEXT} characters."
        )


def fidelity_json(fidelity: Mapping[str, Any]) -> str:
    """Return the one JSON text of a fidelity report: sorted keys, no NaN, limited in size."""
    try:
        text = json.dumps(dict(fidelity), sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise SteeringError(
            f"fidelity is not plain JSON ({error}); give finite numbers, texts, lists and dicts."
        ) from None
    if len(text) > MAX_FIDELITY:
        raise SteeringError(
            f"fidelity takes {len(text)} characters of JSON; keep it within {MAX_FIDELITY}."
        )
    return text
