"""Steerings as units that a device computes for all rows at once, and the places they have there.

A unit reads one direction and writes one: `z_u relu(w_u . x + b_u)`, for x = rms(h) ("normed") or
x = h ("plain"). What a steering adds at a block is a sum of units::

    gate without ReLU    r = relu(r) - relu(-r), two units
    constant z           w = 0, b = 1: always open

Shapes: W (n_units, n_embd), b (n_units,), Z (n_units, n_embd).
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np

from steerplug.errors import EngineError
from steerplug.steering.value import Array, Delta, Steering

Kind = Literal["normed", "plain"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FEWEST, KEPT = 8, 64
"""Places there are at first, and up to which units stay though nobody asks for them any more."""

Key = tuple[str, int]
"""A steering by its digest, and one of its positions."""


class Units(NamedTuple):
    """Units of one kind at one block."""

    W: Array
    b: Array
    Z: Array


def units(delta: Delta, position: int = 0) -> dict[Kind, Units]:
    """Return a delta as units: `delta(h)` is the sum of all that both kinds write."""
    made = {"normed": _none(delta), "plain": _none(delta)}
    if delta.n_units:
        gates = Units(delta.W, delta.b, delta.Z)
        if delta.act == "identity":
            gates = _joined(gates, Units(-gates.W, -gates.b, -gates.Z))
        made["normed" if delta.norm == "rms" else "plain"] = gates
    z = delta.z[position]
    if z.any():
        constant = Units(np.zeros((1, len(z)), np.float32), np.ones(1, np.float32), z[None])
        made["normed"] = _joined(made["normed"], constant)
    return {kind: made[kind] for kind in KINDS}


def n_places(steering: Steering, position: int) -> int:
    """Return how many places a steering takes: as many as at its richest block, of either kind."""
    made = [units(delta, position) for delta in steering.layers.values()]
    return max(len(block[kind].b) for block in made for kind in KINDS)


def has_plain(steering: Steering) -> bool:
    """Whether a steering has plain units at any block."""
    return any(delta.n_units and delta.norm == "none" for delta in steering.layers.values())


def _none(delta: Delta) -> Units:
    none = np.zeros((0, delta.z.shape[1]), np.float32)
    return Units(none, np.zeros(0, np.float32), none)


def _joined(one: Units, other: Units) -> Units:
    return Units(*(np.concatenate(parts) for parts in zip(one, other, strict=True)))


class Places:
    """Which places of a device the units of each steering have: of each kind one unit in a place.

    What was placed stays where it is until it has to give way, the least recently used first.

    Args:
        capacity: how many places there are; a power of two.
        most: how many there can ever be.
    """

    def __init__(self, capacity: int = FEWEST, most: int | None = None) -> None:
        self.capacity, self.most = capacity, most
        self._held: OrderedDict[Key, tuple[int, ...]] = OrderedDict()

    def __getitem__(self, key: Key) -> tuple[int, ...]:
        return self._held[key]

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    @property
    def n_held(self) -> int:
        """How many places are taken."""
        return sum(map(len, self._held.values()))

    def place(self, sizes: Mapping[Key, int]) -> bool:
        """Give places to all of these at once, growing by doubling; return whether any are new.

        Args:
            sizes: how many places each one takes.

        Raises:
            EngineError: there can never be so many.
        """
        for key in sizes.keys() & self._held.keys():
            self._held.move_to_end(key)
        new = {key: size for key, size in sizes.items() if key not in self._held}
        wanted, missing = sum(sizes.values()), sum(new.values())
        self._grow(wanted, self.n_held + missing)
        for key in list(self._held):
            if self.n_held + missing > self.capacity and key not in sizes:
                del self._held[key]
        taken = {place for places in self._held.values() for place in places}
        free = iter(place for place in range(self.capacity) if place not in taken)
        for key, size in new.items():
            self._held[key] = tuple(next(free) for _ in range(size))
        return bool(new)

    def _grow(self, wanted: int, with_others: int) -> None:
        most = self.most if self.most is not None else max(wanted, with_others)
        if wanted > most:
            raise EngineError(
                f"what is asked for at once takes {wanted} units of steering at each block, and "
                f"the device has memory for {most}; ask for fewer presets at once, or give the "
                "device less of the model (n_gpu_layers) or a smaller n_ctx."
            )
        while self.capacity < max(wanted, min(with_others, KEPT, most)):
            self.capacity *= 2
