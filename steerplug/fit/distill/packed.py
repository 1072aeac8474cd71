"""Matrices that stay packed as they lie in the GGUF, and are dequantised where they multiply.

    forward    y = x W^T          x (..., n_in), W (n_out, n_in), y (..., n_out)
    backward   dL/dx = dL/dy W    W is dequantised again: nothing is kept in between

W is made in pieces of some rows, so that what is dequantised at a time never is more than a piece,
of the output matrix least of all. A file that llama.cpp has mapped costs no memory a second time.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from steerplug.engine.dequantise import Convert, dequantiser, to_bfloat16

_PIECE = 2**24
"""Values of a piece: 64 MiB in float32."""

STEP = 2**18
"""Values that a thread makes at a time, few enough to stay in its cache; no row may have more."""


class Workspace:
    """Where pieces are made, in turns, for all weights of one model.

    Args:
        n_threads: that make them.
    """

    def __init__(self, n_threads: int) -> None:
        self._pieces: dict[torch.dtype, torch.Tensor] = {}
        self._steps = [np.empty(STEP, np.float32) for _ in range(n_threads)]
        self._threads = ThreadPoolExecutor(n_threads)
        weakref.finalize(self, self._threads.shutdown, wait=False)

    def piece(self, n: int, dtype: torch.dtype) -> torch.Tensor:
        """Return room for n values; what was made there before is written over."""
        room = self._pieces.get(dtype)
        if room is None or len(room) < n:
            room = self._pieces[dtype] = torch.empty(n, dtype=dtype)
        return room[:n]

    def share(self, n_rows: int, make: Callable[[int, int, NDArray[np.float32]], None]) -> None:
        """Call `make(begin, end, scratch)` for shares of some rows, side by side."""
        n = len(self._steps)
        ends = [n_rows * i // n for i in range(n + 1)]
        list(self._threads.map(make, ends[:-1], ends[1:], self._steps))


class Packed:
    """A frozen matrix, packed; torch's `linear` takes it as a weight.

    Args:
        rows: uint8 (n_out, bytes of a row), as they lie in the file.
        kind: their type, by ggml's name; one that `dequantiser` knows, or F32.
        n_in: values of a row, at most `STEP`.
        workspace: where it is dequantised.
    """

    def __init__(self, rows: NDArray[np.uint8], kind: str, n_in: int, workspace: Workspace) -> None:
        self._rows, self._kind, self._workspace = rows, kind, workspace
        self.shape = torch.Size((len(rows), n_in))
        self.dtype = torch.float32

    @classmethod
    def __torch_function__(
        cls, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Multiply piece by piece."""
        if function is not functional.linear:
            return NotImplemented
        x, weight = args[:2]
        return _Product.apply(x, weight)

    def looked_up(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return some rows, (..., n_in)."""
        rows = np.ascontiguousarray(self._rows[numbers.flatten().numpy()])
        found = Packed(rows, self._kind, self.shape[1], self._workspace)
        found.dtype = self.dtype
        made = [piece.clone() for _, piece in found.pieces()]
        return torch.cat(made).view(*numbers.shape, self.shape[1])

    def pieces(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield some rows after others, dequantised; each piece takes the place of the last."""
        n_out, n_in = self.shape
        n = max(_PIECE // n_in, 1)
        for begin in range(0, n_out, n):
            end = min(begin + n, n_out)
            room = self._workspace.piece((end - begin) * n_in, self.dtype)
            self._dequantise(self._rows[begin:end], room)
            yield slice(begin, end), room.view(end - begin, n_in)

    def dense(self) -> torch.Tensor:
        """Return all of it, (n_out, n_in), in memory of its own."""
        made = torch.empty(self.shape, dtype=self.dtype)
        for rows, piece in self.pieces():
            made[rows] = piece
        return made

    @property
    def n_bytes(self) -> int:
        """How much memory it takes, dequantised."""
        return int(self.shape.numel() * self.dtype.itemsize)

    def _dequantise(self, rows: NDArray[np.uint8], room: torch.Tensor) -> None:
        n_in, size = self.shape[1], room.element_size()
        source, target = rows.ctypes.data, room.data_ptr()
        if size == 4 and self._kind == "F32":
            np.copyto(room.view(len(rows), n_in).numpy(), rows.view(np.float32))
            return
        steps = self._converters(size)
        step = STEP // n_in

        def make(begin: int, end: int, scratch: NDArray[np.float32]) -> None:
            for i in range(begin, end, step):
                n = (min(i + step, end) - i) * n_in
                at, to = source + i * rows.shape[1], target + i * n_in * size
                for convert in steps[:-1]:
                    convert(at, scratch.ctypes.data, n)
                    at = scratch.ctypes.data
                steps[-1](at, to, n)

        self._workspace.share(len(rows), make)

    def _converters(self, size: int) -> list[Convert]:
        """Return what makes numbers of so many bytes of packed ones, one after the other."""
        widen = None if self._kind == "F32" else dequantiser(self._kind)
        narrow = to_bfloat16() if size == 2 else None
        return [each for each in (widen, narrow) if each]


class PackedExperts:
    """The matrices of all experts of a block, packed: a token asks for some of them.

    Args:
        experts: each one's matrix.
    """

    def __init__(self, experts: Sequence[Packed]) -> None:
        self._experts = experts
        self.dtype = torch.float32

    def __getitem__(self, number: int) -> Packed:
        expert = self._experts[number]
        expert.dtype = self.dtype
        return expert


class _Product(torch.autograd.Function):
    """x W^T, whose gradient dequantises W anew."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Packed) -> torch.Tensor:
        ctx.weight = weight
        products = [functional.linear(x, piece) for _, piece in weight.pieces()]
        return torch.cat(products, -1) if len(products) > 1 else products[0]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        total: torch.Tensor | float = 0.0
        for rows, piece in ctx.weight.pieces():
            total = total + (gradient[..., rows] @ piece).float()
        assert isinstance(total, torch.Tensor)
        return total.to(gradient.dtype), None
