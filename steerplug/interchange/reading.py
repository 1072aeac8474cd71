"""A control vector by another tool becomes a `Steering`, its blocks and its scale made explicit."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerplug.errors import SteeringError
from steerplug.steering.file import read_tensors
from steerplug.steering.header import Claim, read_claims
from steerplug.steering.value import Array, Delta, Scope, Steering

FORMATS: dict[str, int] = {"repeng": 0, "llama.cpp": -1, "easysteer": 0}
"""Format -> what is added to the N of `direction.N` to give the block it came from."""

_U32, _I32 = 4, 5  # GGUF's numbers of these kinds
_DIRECTION = re.compile(r"direction\.(0|[1-9][0-9]{0,4})")


@dataclass(frozen=True)
class Vectors:
    """The vectors of a file, by the block they belong to.

    Args:
        format: who wrote the file, by its conventions.
        is_sure: whether the file says so; else it is the likeliest reading.
        vectors: block il -> (n_embd,), as in the file.
        sha256: of the file.
        model_hint: the architecture that the file names; may be empty.
    """

    format: str
    is_sure: bool
    vectors: dict[int, Array]
    sha256: str
    model_hint: str

    @property
    def shift(self) -> int:
        """What was added to each N."""
        return FORMATS[self.format]

    @property
    def lengths(self) -> tuple[float, float]:
        """The shortest and the longest vector's length."""
        lengths = [
            float(np.linalg.norm(vector.astype(np.float64))) for vector in self.vectors.values()
        ]
        return min(lengths), max(lengths)

    def steering(
        self, name: str, n_embd: int, n_layer: int, scope: Scope, scale: float
    ) -> Steering:
        """Return them as steering whose strength 1 is `scale` times the file's vectors.

        Raises:
            SteeringError: they are for a model of another width or depth, or the scale leaves
                nothing of them, or nothing finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = {il: np.float32(scale) * vector for il, vector in self.vectors.items()}
        if not scale or not all(np.isfinite(vector).all() for vector in scaled.values()):
            raise SteeringError(
                f"at the scale {scale:g} the vectors are zero or not finite; choose one such as 1."
            )
        layers = {il: Delta.constant(vector) for il, vector in scaled.items()}
        return Steering(name, n_embd, n_layer, layers, scope)


def read_vectors(path: Path, made_by: str | None = None) -> Vectors:
    """Read a control vector of repeng, llama.cpp's generator or EasySteer.

    Args:
        path: the GGUF.
        made_by: whose conventions it follows; default: what the file looks like.

    Raises:
        SteeringError: it is damaged, no control vector, or `made_by` is unknown or cannot be.
    """
    try:
        metadata, arrays = read_tensors(path)
        if any(key.startswith("steerplug.") for key in metadata):
            raise SteeringError(
                "steerplug wrote it, and uses it as it is; name its path where a preset belongs."
            )
        if metadata.get("general.architecture") != "controlvector":
            raise SteeringError(
                f"its architecture is {str(metadata.get('general.architecture'))[:80]!r}, not "
                "`controlvector`; give a control vector."
            )
        _check_component(metadata)
        numbered = {_number(name, array): array for name, array in arrays.items()}
        likely, is_sure = _recognised(read_claims(path), set(numbered))
        chosen = made_by or likely
        if chosen not in FORMATS:
            raise SteeringError(f"`{chosen}` is no known tool; it must be {_either(FORMATS)}.")
        if not numbered:
            raise SteeringError("it holds no `direction.N`; fetch the file again.")
        vectors = {n + FORMATS[chosen]: array for n, array in numbered.items()}
        if min(vectors) < 0:
            raise SteeringError(
                "it holds `direction.0`, which llama.cpp's generator never writes; read it as "
                "repeng or easysteer."
            )
    except SteeringError as error:
        raise SteeringError(f"{path}: {error}") from None
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    hint = str(metadata.get("controlvector.model_hint", ""))
    return Vectors(chosen, is_sure or made_by is not None, vectors, sha256, hint)


def _either(words: dict[str, int]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"


def _number(name: str, array: Array) -> int:
    match = _DIRECTION.fullmatch(name)
    if not match or array.ndim != 1:
        raise SteeringError(
            f"{name[:80]!r} of shape {array.shape} has no place in a control vector, which holds "
            "`direction.N` of shape (n_embd,); fetch the file again."
        )
    return int(match[1])


def _check_component(metadata: dict[str, Any]) -> None:
    """Refuse vectors that EasySteer took elsewhere than from the residual stream."""
    text = metadata.get("controlvector.easysteer", "{}")
    try:
        native = json.loads(text)
        component = native.get("component")
    except (TypeError, ValueError, AttributeError, RecursionError):
        raise SteeringError(
            "its `controlvector.easysteer` is not what EasySteer writes; fetch the file again."
        ) from None
    if component not in (None, "hidden_states"):
        raise SteeringError(
            f"its vectors are of {str(component)[:80]!r}, and steerplug steers the output of "
            "blocks; extract them from hidden_states."
        )


def _recognised(claims: dict[str, Claim], numbers: set[int]) -> tuple[str, bool]:
    """Return whose file it looks like, and whether no other known tool writes such a file."""
    if "controlvector.method" in claims:  # EasySteer alone writes how it was extracted
        return "easysteer", True
    count = claims.get("controlvector.layer_count")
    if count and count.kind == _I32 and numbers == set(range(1, len(numbers) + 1)):
        return "llama.cpp", False
    return "repeng", bool(count and count.kind == _U32)
