"""Steering as frozen values that know their geometry.

Equation, for a token in scope at the output h of block il (llama.cpp's `l_out-{il}`, 0-based)::

    h  <-  h + sum_i  strength_i * delta_i(h)
    delta(h) = z + Z^T . act(W . norm(h) + b)

Shapes: h, z (n_embd,); W, Z (k, n_embd); b (k,). A constant vector has k = 0. `act` is "relu" or
"identity"; `norm` is "rms", rms(h) = h / sqrt(mean(h^2)), or "none".
Sign: positive strength gives more of what the preset names. Unit: strength 1.0 is the fitted
effect.
Source: activation addition, arXiv 2308.10248; gates (PSR), arXiv 2605.03907.

`Steering` is one fitted thing, as a file holds it. `Mix` is a linear combination of them; all
deltas of a mix read the same incoming h, so a mix is order-free and linear in its strengths.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from steerplug.errors import SteeringError, StrengthError
from steerplug.steering.terms import Scope as Scope

Act = Literal["relu", "identity"]
Norm = Literal["rms", "none"]
Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Delta:
    """What is added at one block: `z + Z^T . act(W . norm(h) + b)`.

    Args:
        z: (n_positions, n_embd); one row, except in scope "front", where row p is added at the
            p-th token.
        W: (k, n_embd), the directions that are read; k may be 0.
        b: (k,), the offsets of the gates.
        Z: (k, n_embd), the directions that are written.
        act: "relu" or "identity".
        norm: what the gates read: "rms" or "none".

    Raises:
        SteeringError: shapes disagree, a number is not finite, or `act` or `norm` is unknown.
    """

    z: Array
    W: Array
    b: Array
    Z: Array
    act: Act = "relu"
    norm: Norm = "rms"

    def __post_init__(self) -> None:
        for name in ("z", "W", "b", "Z"):
            with np.errstate(over="ignore"):  # a float64 beyond float32 is refused just below
                array = np.array(getattr(self, name), dtype=np.float32, order="C")
            if not np.isfinite(array).all():
                raise SteeringError(f"{name} holds a number that is not finite; fit it again.")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.z.ndim != 2 or self.z.size == 0:
            raise SteeringError(f"z has shape {self.z.shape}; it must be (n_positions, n_embd).")
        k, n_embd = self.b.size, self.z.shape[1]
        for name, shape in (("W", (k, n_embd)), ("b", (k,)), ("Z", (k, n_embd))):
            if getattr(self, name).shape != shape:
                raise SteeringError(
                    f"{name} has shape {getattr(self, name).shape}; with z {self.z.shape} and "
                    f"k = {k} it must be {shape}."
                )
        for name, word, known in (("act", self.act, Act), ("norm", self.norm, Norm)):
            if word not in get_args(known):
                raise SteeringError(f"{name} is `{word}`; it must be one of {get_args(known)}.")

    @staticmethod
    def constant(z: Array) -> "Delta":
        """Return the constant `z`: (n_embd,), or (n_positions, n_embd) for scope "front"."""
        rows = np.atleast_2d(np.asarray(z, dtype=np.float32))
        none = np.zeros((0, rows.shape[1]), np.float32)
        return Delta(z=rows, W=none, b=np.zeros(0, np.float32), Z=none, act="identity", norm="none")

    @staticmethod
    def gated(W: Array, b: Array, Z: Array) -> "Delta":
        """Return the PSR gate `Z^T . ReLU(W . rms(h) + b)`; W, Z: (k, n_embd), b: (k,)."""
        return Delta(z=np.zeros((1, np.shape(Z)[-1]), np.float32), W=W, b=b, Z=Z)

    @staticmethod
    def affine(z: Array, W: Array, b: Array, Z: Array) -> "Delta":
        """Return the rank-k affine map `z + Z^T . (W . h + b)`; W, Z: (k, n_embd), b: (k,)."""
        return Delta(z=np.atleast_2d(z), W=W, b=b, Z=Z, act="identity", norm="none")

    @property
    def n_units(self) -> int:
        """The rank k: how many directions are read and written."""
        return len(self.b)


@dataclass(frozen=True, eq=False)
class Steering:
    """One fitted preset for one model: what to add at which block, and to which tokens.

    Args:
        name: whom a receipt names, usually the preset.
        n_embd: width of the model's activations.
        n_layer: how many blocks the model has.
        scope: "response", "all" or "front".
        layers: block il (0-based) -> `Delta`.

    Raises:
        SteeringError: a block lies outside the model, a width differs, nothing is steered, or the
            scope is unknown.
    """

    __array_ufunc__ = None  # so that `np.float64(2) * steering` comes here, not to NumPy

    name: str
    n_embd: int
    n_layer: int
    layers: Mapping[int, Delta]
    scope: Scope = "response"

    def __post_init__(self) -> None:
        if not self.layers:
            raise SteeringError(f"`{self.name}` steers no block at all; fit it again.")
        if self.scope not in get_args(Scope):
            raise SteeringError(
                f"`{self.name}` has scope `{self.scope}`; it must be one of {get_args(Scope)}."
            )
        ordered = {il: self.layers[il] for il in sorted(self.layers)}
        for il, delta in ordered.items():
            if not 0 <= il < self.n_layer:
                raise SteeringError(
                    f"`{self.name}` steers block {il}, but the model has blocks 0 to "
                    f"{self.n_layer - 1}; choose layers within that range."
                )
            if delta.z.shape[1] != self.n_embd:
                raise SteeringError(
                    f"`{self.name}` has {delta.z.shape[1]} values at block {il}, but the model "
                    f"expects {self.n_embd} (n_embd); build the preset for this model."
                )
        counts = {len(delta.z) for delta in ordered.values()}
        if len(counts) > 1 or (self.scope != "front" and counts != {1}):
            raise SteeringError(
                f"`{self.name}` has {sorted(counts)} positions in scope `{self.scope}`; every "
                "block must have the same number, and exactly one unless the scope is `front`."
            )
        object.__setattr__(self, "layers", MappingProxyType(ordered))

    @property
    def n_positions(self) -> int:
        """How many rows `z` has: 1, or the number of front tokens that are steered."""
        return len(next(iter(self.layers.values())).z)

    @cached_property
    def digest(self) -> str:
        """Sha256 (hex) of everything that changes a token: geometry, scope and numbers, no name."""
        sha = hashlib.sha256(f"{self.n_embd} {self.n_layer} {self.scope}".encode())
        for il, delta in self.layers.items():
            sha.update(f"|{il} {delta.z.shape} {delta.n_units} {delta.act} {delta.norm}|".encode())
            for array in (delta.z, delta.W, delta.b, delta.Z):
                sha.update(array.astype("<f4").tobytes())
        return sha.hexdigest()

    def __rmul__(self, strength: float) -> "Mix":
        return strength * Mix.of(self)

    def __neg__(self) -> "Mix":
        return -1.0 * self

    def __add__(self, other: "Steering | Mix") -> "Mix":
        return Mix.of(self) + other

    def __sub__(self, other: "Steering | Mix") -> "Mix":
        return Mix.of(self) - other


@dataclass(frozen=True)
class Term:
    """One steering at one strength, within a mix."""

    strength: float
    steering: Steering


@dataclass(frozen=True)
class Mix:
    """A linear combination of steerings, in normal form: `2*a - b`, `a + (-a)` is `NOTHING`.

    Terms of equal content are one term, terms of strength 0 are gone, and terms are sorted by
    digest, so two mixes are equal when they do the same to every token.

    Raises:
        StrengthError: a strength is NaN or infinite.
        SteeringError: the steerings were fitted for models of different geometry.
    """

    __array_ufunc__ = None  # so that `np.float64(2) * mix` comes here, not to NumPy

    terms: tuple[Term, ...] = field(default=())

    def __post_init__(self) -> None:
        strengths: dict[str, float] = {}
        steerings: dict[str, Steering] = {}
        for term in self.terms:
            digest = term.steering.digest
            steerings.setdefault(digest, term.steering)
            strengths[digest] = strengths.get(digest, 0.0) + float(term.strength)
        for digest, strength in strengths.items():
            if not math.isfinite(strength):
                raise StrengthError(
                    f"the strength of `{steerings[digest].name}` is {strength}; "
                    "give a finite number such as 0.8."
                )
        geometries = {(s.n_embd, s.n_layer): s.name for s in steerings.values()}
        if len(geometries) > 1:
            shapes = ", ".join(f"`{name}` {shape}" for shape, name in geometries.items())
            raise SteeringError(
                f"steerings of different models do not mix: {shapes} as (n_embd, n_layer); "
                "build all of them for one model."
            )
        terms = tuple(Term(strengths[d], steerings[d]) for d in sorted(strengths) if strengths[d])
        object.__setattr__(self, "terms", terms)

    @staticmethod
    def of(steering: "Steering | Mix") -> "Mix":
        """Return a steering as a mix of itself at strength 1; a mix as it is."""
        return steering if isinstance(steering, Mix) else Mix((Term(1.0, steering),))

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mix) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """Sha256 (hex) over the terms; equal exactly when two mixes steer alike."""
        sha = hashlib.sha256()
        for term in self.terms:
            sha.update(f"{term.strength!r} {term.steering.digest}\n".encode())
        return sha.hexdigest()

    def __rmul__(self, strength: float) -> "Mix":
        return Mix(tuple(Term(float(strength) * t.strength, t.steering) for t in self.terms))

    def __neg__(self) -> "Mix":
        return -1.0 * self

    def __add__(self, other: "Steering | Mix") -> "Mix":
        return Mix(self.terms + Mix.of(other).terms)

    def __sub__(self, other: "Steering | Mix") -> "Mix":
        return self + -Mix.of(other)


NOTHING = Mix()
