"""Steering that devices compute by themselves: what each decode asks of them, and what they tell.

Strengths (n_columns, n_places) say which row asks for which unit: one column for each row of a
batch, and after these one for each row with logits, which may be all that the last block has.
native/device.c says what the graph does with them; device_units.py has the units.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
from llama_cpp import llama_cpp as llama

from steerplug.engine import ggml
from steerplug.engine.device_memory import DeviceFullError, DeviceMemory, alignment
from steerplug.engine.device_units import DeviceUnits
from steerplug.engine.row_steering import RowSteering
from steerplug.engine.units import KINDS

_Pointer = ctypes.c_void_p
_OPERATIONS = (
    "ggml_rms_norm", "ggml_mul_mat", "ggml_add", "ggml_clamp", "ggml_reglu_split",
    "ggml_reshape_3d", "ggml_view_2d", "ggml_concat", "ggml_cpy", "ggml_backend_tensor_alloc",
    "llama_synchronize",
)  # fmt: skip

PAST, _PAST_ROWS = 16, 64
"""How many decodes may be accounted for at once, and of how many rows each."""


class _Block(ctypes.Structure):
    _fields_ = (
        ("device", ctypes.c_int32), ("slot", ctypes.c_int32),
        *((name, _Pointer * len(KINDS)) for name in ("W", "b", "Z")),
        ("output", _Pointer), ("n_found", ctypes.c_int64),
        ("n_built", ctypes.c_int32), ("kept_at", ctypes.c_int32),
    )  # fmt: skip


class _Shelf(ctypes.Structure):
    _fields_ = (
        *((name, _Pointer) for name in ("tensor", "buffer", "copy")), ("size", ctypes.c_int64)
    )


class _Device(ctypes.Structure):
    _fields_ = (
        ("S", _Pointer), *((name, _Shelf) for name in ("told", "blank", "past", "aside", "kept")),
        ("n_blocks", ctypes.c_int32), ("remembers", ctypes.c_int32),
    )  # fmt: skip


class _Route(ctypes.Structure):
    _fields_ = (
        *((name, _Pointer) for name in (*_OPERATIONS, "context", "blocks", "devices")),
        *((name, ctypes.c_int32) for name in (
            "n_devices", "max_rows", "alignment")),
        *((name, _Pointer) for name in ("moved", "steered")),
        *((name, ctypes.c_int32) for name in ("n_units", "rebuild")),
        ("strengths", _Pointer),
        *((name, ctypes.c_int32) for name in (
            "n_columns", "upload", "later", "must_build", "built_rows", "is_waited_for",
            "n_pending", "n_left", "n_after")),
    )


class _Memory:
    """What a graph leaves on a device, and a copy of it on the host; -1 at first."""

    def __init__(self, shelf: _Shelf, buffer_type: int, size: int) -> None:
        self.there = DeviceMemory(buffer_type, [(size,)], weights=False)
        self._copy = np.full(size, -1, np.float32)
        self.there.write(0, self._copy)
        shelf.tensor, shelf.buffer = self.there.tensors[0], self.there.buffer
        shelf.copy, shelf.size = self._copy.ctypes.data, size


class DeviceRoute:
    """What steers on the devices of one context.

    Args:
        n_embd: width of the activations.
        buffer_types: of each block, the kind of buffer that its device has; None: in host memory,
            where a node steers it.
        max_rows: rows of the largest batch.

    Raises:
        EngineError: a device has no memory for it, or this build lacks an operation.
    """

    def __init__(
        self, n_embd: int, buffer_types: Sequence[int | None], max_rows: int
    ) -> None:
        self._n_embd, self._max_rows = n_embd, max_rows
        self._buffer_types = list(dict.fromkeys(each for each in buffer_types if each is not None))
        self._blocks_on = [
            [il for il, other in enumerate(buffer_types) if other == each]
            for each in self._buffer_types
        ]
        self._blocks = (_Block * len(buffer_types))(*(_Block(-1) for _ in buffer_types))
        self._devices = (_Device * len(self._buffer_types))()
        self.state = _Route(*map(ggml.address, _OPERATIONS))
        self.state.blocks = ctypes.addressof(self._blocks)
        self.state.devices = ctypes.addressof(self._devices)
        self.state.n_devices, self.state.max_rows = len(self._devices), max_rows
        self._moved = np.zeros((PAST, max_rows), np.float32)
        self._steered = np.zeros((PAST, max_rows), np.int32)
        self.state.moved = self._moved.ctypes.data
        self.state.steered = self._steered.ctypes.data
        self.state.alignment = max(map(alignment, self._buffer_types), default=1)
        self._units = DeviceUnits(n_embd, self._buffer_types, self._blocks_on, 2 * max_rows)
        self._told: list[_Memory] = []
        self._kept: list[_Memory] = []
        try:
            for device, buffer_type, blocks in self._each():
                for shelf, n in self._shelves(device):
                    self._told.append(_Memory(shelf, buffer_type, 2 * len(blocks) * n))
        except DeviceFullError:
            self.close()
            raise
        self._lit = 0
        for i, (device, _, blocks) in enumerate(self._each()):
            device.n_blocks = len(blocks)
            for slot, il in enumerate(blocks):
                self._blocks[il].device, self._blocks[il].slot = i, slot
        self._name_tensors()

    def _each(self) -> list[tuple[_Device, int, list[int]]]:
        return list(zip(self._devices, self._buffer_types, self._blocks_on, strict=True))

    def _shelves(self, device: _Device) -> list[tuple[_Shelf, int]]:
        """Return what has room for what decodes tell: how many numbers of each kind at a block."""
        n, n_past = (self._aligned(min(n, self._max_rows)) for n in (self._max_rows, _PAST_ROWS))
        return [
            (device.told, n), (device.blank, n), (device.past, PAST * n_past),
            (device.aside, PAST * n_past),
        ]  # fmt: skip

    def _aligned(self, n: int) -> int:
        step = int(self.state.alignment)
        return -(-n // step) * step

    def of(self, context: ctypes.c_void_p) -> None:
        """Name the context that it steers, once there is one."""
        self.state.context = context

    def build_anew(self) -> None:
        """Have the next decode build its graph anew."""
        self.state.rebuild = 1

    def ask(self, steering: Sequence[RowSteering | None], outputs: Sequence[bool]) -> None:
        """Set the strengths of the next decode, and place units that are not there yet.

        Raises:
            EngineError: there is no memory for all of them.
        """
        asked = [what for what in dict.fromkeys(steering) if what is not None]
        self._place(asked)
        columns = list(steering)
        if not all(outputs):
            columns += [what for what, is_one in zip(steering, outputs, strict=True) if is_one]
        self._darken(len(columns))
        for what in asked:
            rows = [i for i, other in enumerate(columns) if other is what]
            for (part, position), (_, strength) in zip(what.parts, what.terms, strict=True):
                places = self._units.places[part.digest, position]
                self._strengths[np.ix_(rows, places)] = strength
        self._lit = len(columns)

    def ask_nothing(self) -> None:
        """Let no row of the next decode ask for anything."""
        if self._lit:
            self._darken(0)
            self._lit = 0

    def _darken(self, n_columns: int) -> None:
        """Clear the strengths that are set; have them uploaded with those of so many columns."""
        self._strengths[: self._lit] = 0
        self.state.n_columns, self.state.upload = max(self._lit, n_columns), 1

    def _place(self, asked: Sequence[RowSteering]) -> None:
        wanted = {
            (steering.digest, position): steering
            for what in asked for steering, position in what.parts
        }
        if not all(key in self._units.places for key in wanted):
            llama.llama_synchronize(self.state.context)
        if self._units.place(wanted):
            self._name_tensors()
            self.build_anew()

    def _name_tensors(self) -> None:
        """Tell native code which tensors there are; strengths are all 0 then."""
        n = self._units.places.capacity
        self._strengths = np.zeros((2 * self._max_rows, n), np.float32)
        self.state.strengths, self.state.n_units = self._strengths.ctypes.data, n
        self._lit = 0
        for i, (device, _, blocks) in enumerate(self._each()):
            device.S = self._units.strengths(i)
            for slot, il in enumerate(blocks):
                for part in ("W", "b", "Z"):
                    for k, kind in enumerate(KINDS):
                        getattr(self._blocks[il], part)[k] = self._units.tensor(i, slot, part, kind)

    def keep(self, layers: Sequence[int], n_rows: int) -> None:
        """Have room for what leaves these blocks in the next decode.

        Raises:
            EngineError: a device has no memory for it.
        """
        each = self._aligned(n_rows * self._n_embd)
        sizes = [each * len(set(blocks) & set(layers)) for blocks in self._blocks_on]
        if all(size <= device.kept.size for size, device in zip(sizes, self._devices, strict=True)):
            return
        llama.llama_synchronize(self.state.context)
        for memory in self._kept:
            memory.there.free()
        self._kept = []
        for device in self._devices:
            device.kept = _Shelf()
        self.build_anew()
        for size, (device, buffer_type, _) in zip(sizes, self._each(), strict=True):
            if size:
                self._kept.append(_Memory(device.kept, buffer_type, size))

    def close(self) -> None:
        """Give the devices' memory back, after the context is freed."""
        self._units.free()
        for memory in (*self._told, *self._kept):
            memory.there.free()
        self._told, self._kept = [], []
