"""What llama.cpp is about to compute: the tensors of its graph, written down.

Shapes are (n3, n2, n1, n0): the last dimension is the one whose values lie side by side, ggml's
first. Strides and offsets count values. A view shows values of its root, which is never a view.

ggml has no function that tells an operation's sources or parameters, so its structure is read as
ggml.h has it, and held against what its functions make before anything is believed.
"""

import ctypes
import math
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerplug.engine import ggml
from steerplug.errors import EngineError

Shape = tuple[int, ...]
"""Of four dimensions."""

_TYPES: dict[int, Any] = {0: np.float32, 1: np.float16, 26: np.int32, 27: np.int64}
"""ggml's numbers of types that NumPy has too."""

_INTEGERS = {26, 27}


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a graph.

    Args:
        name: llama.cpp's; it need not be the only one of this name.
        operation: that makes it, by ggml's name; `NONE` where nothing does.
        is_integer: whether its values are.
        shape: of it.
        strides: in values.
        offset: where it begins in its root, in values.
        sources: what it is made of; None where one of them was left out.
        view_of: its root, or None if it is one.
        parameters: of the operation, as they lie in memory.
        values: its numbers, if nothing makes it and it is no weight: an input, or cells.
    """

    name: str
    operation: str
    is_integer: bool
    shape: Shape
    strides: Shape
    offset: int
    sources: "tuple[Tensor | None, ...]"
    view_of: "Tensor | None"
    parameters: bytes
    values: NDArray[Any] | None

    @property
    def root(self) -> "Tensor":
        """Whose values it shows: its own, unless it is a view."""
        return self if self.view_of is None else self.view_of

    @property
    def is_weight(self) -> bool:
        """Whether its values are those of the model's file."""
        return self.operation == "NONE" and self.view_of is None and self.values is None

    def integer(self, i: int) -> int:
        """Return parameter i of its operation, an integer."""
        return int(struct.unpack_from("<i", self.parameters, 4 * i)[0])

    def number(self, i: int) -> float:
        """Return parameter i of its operation, a float."""
        return float(struct.unpack_from("<f", self.parameters, 4 * i)[0])


class Graph:
    """The tensors that llama.cpp hands over, in the order in which it would compute them.

    Args:
        weights: the names of the model's tensors, whose values are not looked at.
    """

    def __init__(self, weights: frozenset[str]) -> None:
        self._weights = weights
        self._known: dict[int, Tensor] = {}
        self.nodes: list[Tensor] = []

    def add(self, address: int) -> None:
        """Take the next one over.

        Raises:
            EngineError: this build's tensors lie otherwise than ggml.h says, or hold numbers that
                nobody here can read.
        """
        check_layout()
        self.nodes.append(self._tensor(address))

    def _tensor(self, address: int) -> Tensor:
        if address not in self._known:
            self._known[address] = self._written_down(address)
        return self._known[address]

    def _written_down(self, address: int) -> Tensor:
        t = _read(address)
        size = _size_of(t.kind)
        sources = [None if source == address else source for source in t.sources]  # so has a cast
        while sources and not sources[-1]:
            sources.pop()
        is_leaf = not t.operation and not t.root and t.name not in self._weights
        return Tensor(
            t.name, _operation(t.operation), t.kind in _INTEGERS, t.shape,
            tuple(step // size for step in t.strides), t.offset // size,
            tuple(self._tensor(source) if source else None for source in sources),
            self._tensor(t.root) if t.root else None, t.parameters,
            _values(t) if is_leaf else None,
        )  # fmt: skip


_LAYOUT = struct.Struct("=i4xQ4q4Qi64si10QQQQ64s")
"""`ggml_tensor`, from its type to its name, with its buffer and flags, of which nothing is read."""


class _Read(NamedTuple):
    """A tensor as it lies in memory: strides and offset in bytes, others by their addresses."""

    kind: int
    shape: Shape
    strides: Shape
    operation: int
    parameters: bytes
    sources: tuple[int, ...]
    root: int
    offset: int
    data: int
    name: str


def _read(address: int) -> _Read:
    found = _LAYOUT.unpack(ctypes.string_at(address, _LAYOUT.size))
    kind, _buffer, a, b, c, d, step_a, step_b, step_c, step_d, operation, parameters = found[:12]
    *sources, root, offset, data, name = found[13:]
    return _Read(
        kind, (d, c, b, a), (step_d, step_c, step_b, step_a), operation, parameters,
        tuple(sources), root, offset, data, name.partition(b"\0")[0].decode("utf-8", "replace"),
    )  # fmt: skip


def _values(t: _Read) -> NDArray[Any]:
    """Return the numbers of a tensor where they lie: they are its own until the next decode."""
    kind = _TYPES.get(t.kind)
    if kind is None or not t.data:
        raise EngineError(f"`{t.name}` in llama.cpp's graph holds no numbers that can be read.")
    n_bytes = math.prod(t.shape) * np.dtype(kind).itemsize
    raw = (ctypes.c_char * n_bytes).from_address(t.data)
    return np.frombuffer(raw, kind).reshape(t.shape)


@cache
def _operation(number: int) -> str:
    return str(ggml.call("ggml_op_name", number).decode())


@cache
def _size_of(kind: int) -> int:
    """Return the bytes of a value, or of a block of packed ones."""
    return int(ggml.call("ggml_type_size", kind))


@cache
def check_layout() -> None:
    """Refuse a build whose tensors lie otherwise than is thought here.

    Raises:
        EngineError: what ggml made is not found where it should be.
    """
    context = ggml.call("ggml_init", ggml.InitParams(2**16, None, True))
    try:
        a, b = (ggml.call("ggml_new_tensor_2d", context, 0, 3, n) for n in (2, 5))
        product = ggml.call("ggml_mul_mat", context, a, b)
        scaled = ggml.call("ggml_scale", context, product, 0.5)
        view = ggml.call("ggml_view_2d", context, scaled, 1, 4, 8, 4)
        ggml.call("ggml_set_name", view, b"a view")
        _check([_read(each) for each in (product, scaled, view)], (a, b), product, scaled)
    finally:
        ggml.call("ggml_free", context)


def _check(found: list[_Read], sources: tuple[int, int], product: int, scaled: int) -> None:
    of_product, of_scaled, of_view = found
    seen = (
        (of_product.kind, of_product.shape, of_product.strides[2:]),
        (_operation(of_product.operation), of_product.sources[:3]),
        (of_scaled.sources[0], of_scaled.parameters[:4], _operation(of_scaled.operation)),
        (of_view.root, of_view.offset, of_view.strides[2], of_view.name, of_view.shape),
    )
    expected = (
        (0, (1, 1, 5, 2), (8, 4)),
        ("MUL_MAT", (*sources, 0)),
        (product, struct.pack("<f", 0.5), "SCALE"),
        (scaled, 4, 8, "a view", (1, 1, 4, 1)),
    )
    if seen != expected:
        raise EngineError(
            "this build of llama-cpp-python lays out tensors otherwise than ggml.h did; "
            "install a release of llama-cpp-python between 0.3.36 and 0.4."
        )
