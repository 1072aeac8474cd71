"""The units of steerings in use, as tensors on the devices whose blocks they steer.

Shapes in NumPy's order, for n places: W (n, n_embd), b (n,), Z (n_embd, n) of each kind at each
block, and strengths (n_columns, n) on each device. What nobody has any more stays until another
steering takes its place; strengths of 0 silence it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from steerplug.engine.device_memory import DeviceFullError, DeviceMemory
from steerplug.engine.units import KINDS, Key, Kind, Places, has_plain, n_places, units
from steerplug.steering.value import Array, Steering

_PARTS = ("W", "b", "Z")


class DeviceUnits:
    """Which units lie on the devices of one context, and where.

    Args:
        n_embd: width of the activations.
        buffer_types: the kind of buffer of each device.
        blocks_on: the blocks of each.
        n_columns: columns of the strengths.

    Raises:
        DeviceFullError: a device has no memory for it.
    """

    def __init__(
        self, n_embd: int, buffer_types: Sequence[int], blocks_on: Sequence[Sequence[int]],
        n_columns: int,
    ) -> None:  # fmt: skip
        self._n_embd, self._n_columns = n_embd, n_columns
        self._buffer_types, self._blocks_on = buffer_types, blocks_on
        self._steerings: dict[Key, Steering] = {}
        self._memories: list[DeviceMemory] = []
        self.places = Places()
        self.kinds: tuple[Kind, ...] = KINDS[:1]
        self._make_room()

    def tensor(self, device: int, slot: int, part: str, kind: Kind) -> int | None:
        """Return the address of `W`, `b` or `Z` of a device's block; None where there is none."""
        if kind not in self.kinds:
            return None
        of_block = len(_PARTS) * (len(self.kinds) * slot + self.kinds.index(kind))
        return self._memories[device].tensors[of_block + _PARTS.index(part)]

    def strengths(self, device: int) -> int:
        """Return the address of a device's strengths."""
        return self._memories[device].tensors[-1]

    def place(self, wanted: Mapping[Key, Steering]) -> bool:
        """Have the units of all these steerings on the devices; return whether tensors are new.

        Whatever was computed with the old ones must have ended.

        Raises:
            EngineError: there is no memory for all of them at once.
        """
        capacity, kinds = self.places.capacity, self.kinds
        sizes = {
            key: len(self.places[key]) if key in self.places else n_places(steering, key[1])
            for key, steering in wanted.items()
        }
        if not self.places.place(sizes):
            return False
        held = {**self._steerings, **wanted}
        self._steerings = {key: held[key] for key in held if key in self.places}
        if any(map(has_plain, wanted.values())):
            self.kinds = KINDS
        is_new = (self.places.capacity, self.kinds) != (capacity, kinds)
        if is_new:
            try:
                self._make_room()
            except DeviceFullError:
                has_grown = self.places.capacity > capacity
                self.places, self.kinds, self._steerings = Places(capacity, capacity), kinds, {}
                if not has_grown or capacity < sum(sizes.values()):
                    raise
                return self.place(wanted)
        self._lay()
        return is_new

    def _make_room(self) -> None:
        n = self.places.capacity
        of_block = [(self._n_embd, n), (n,), (n, self._n_embd)] * len(self.kinds)
        made: list[DeviceMemory] = []
        try:
            for buffer_type, blocks in zip(self._buffer_types, self._blocks_on, strict=True):
                shapes = [*of_block * len(blocks), (n, self._n_columns)]
                made.append(DeviceMemory(buffer_type, shapes))
        except DeviceFullError:
            _free(made)
            raise
        _free(self._memories)
        self._memories = made
        for memory in made:
            memory.write(-1, np.zeros((self._n_columns, n), np.float32))
        self._lay()

    def _lay(self) -> None:
        """Write the units of all steerings that have places."""
        for device, blocks in enumerate(self._blocks_on):
            for slot, il in enumerate(blocks):
                for i, values in enumerate(v for kind in self.kinds for v in self._at(il, kind)):
                    place = len(_PARTS) * len(self.kinds) * slot + i
                    self._memories[device].write(place, values)

    def _at(self, il: int, kind: Kind) -> tuple[Array, Array, Array]:
        """Return the units of one kind of all steerings at a block: W, b, Z."""
        n = self.places.capacity
        W, Z = np.zeros((2, n, self._n_embd), np.float32)
        b = np.zeros(n, np.float32)
        for key, steering in self._steerings.items():
            if delta := steering.layers.get(il):
                its = units(delta, key[1])[kind]
                places = list(self.places[key][: len(its.b)])
                W[places], b[places], Z[places] = its
        return W, b, Z.T

    def free(self) -> None:
        """Give the memory back."""
        _free(self._memories)
        self._memories = []


def _free(memories: Sequence[DeviceMemory]) -> None:
    for memory in memories:
        memory.free()
