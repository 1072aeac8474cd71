"""Cells of llama.cpp's cache that no token made: behind the first token of whatever is read.

A soft prompt is decoded as embeddings. A trained K/V prefix is a state of a sequence, whose layout
is llama.cpp's own affair; as its writer (llama-kv-cache.cpp) has it::

    u32 magic, u32 flags, u32 n_streams = 1, u32 n_cells
    per cell    i32 position, u32 1, i32 sequence
    u32 values are transposed, u32 n_blocks
    per block   i32 type of keys, u64 bytes of a cell's, keys of all cells
    per block   i32 type of values, u64 bytes of a cell's, values of all cells
    transposed  i32 type of values, u32 bytes of a number, u32 numbers of a cell, for each all cells

Whoever puts one in says what was there before; if that is not what is found, it is refused.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from steerplug.engine import log, threads
from steerplug.engine.capture import Capture
from steerplug.engine.context import Context
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.rows import Row
from steerplug.engine.sequences import State
from steerplug.errors import EngineError
from steerplug.steering.value import Array

_NUMBERS = {llama.GGML_TYPE_F32: np.float32, llama.GGML_TYPE_F16: np.float16}
_PLACE_BYTES = 12
_MOST_APART = 0.3
"""Rounding of quantised weights leaves some hundredths between torch and llama.cpp; another order
of numbers, 1.4."""


class Fronted(Context):
    """A context in which some cells stand behind the first token of its sequence 0.

    All that is read in it has the same first token, which is decoded once; other tokens stand so
    many places further on. `reader` reads in it, for whoever uses it.

    Args:
        model: the loaded model.
        n_ctx: how many tokens the KV cache holds.
        n_threads: threads.
    """

    n_front = 0

    def __init__(self, model: Model, *, n_ctx: int, n_threads: int) -> None:
        super().__init__(model, n_ctx=n_ctx, n_threads=n_threads)
        self.reader = Reader(self)

    def forget(self) -> None:
        """Hold nothing, not even what is in front."""
        self.clear()
        self.n_front = 0
        self.reader = Reader(self)

    def begin(self, first: int) -> None:
        """Go on behind the first token and what was put behind it."""
        self.reader = Reader(self, [Row(first, 0)])

    def decode(
        self, rows: Sequence[Row], capture: Capture | None = None, *, watch_all: bool = False
    ) -> Array | None:
        """Decode rows behind the cells in front."""
        if self.n_front:
            rows = [row._replace(position=row.position + self.n_front) for row in rows]
        return super().decode(rows, capture, watch_all=watch_all)

    def keep(self, n: int, sequence: int = 0) -> int:
        """Drop cells from the n-th token on; the first one stays, and what is in front with it."""
        kept = super().keep(n + self.n_front, sequence)
        return max(kept - self.n_front, 0)

    def put_embeddings(self, embeddings: Array) -> None:
        """Decode embeddings, (n, n_embd), behind the first token, which is there."""
        n = len(embeddings)
        batch = llama.llama_batch_init(n, self.model.n_embd, 1)
        batch.n_tokens = n
        ctypes.memmove(batch.embd, np.ascontiguousarray(embeddings, np.float32).ctypes.data,
                       embeddings.size * 4)  # fmt: skip
        for i in range(n):
            batch.pos[i], batch.n_seq_id[i], batch.logits[i] = 1 + i, 1, False
            batch.seq_id[i][0] = 0
        log.forget()
        self.hook.stand_by(n)
        try:
            code = llama.llama_decode(self.handle, batch)
        finally:
            self.hook.disarm()
            llama.llama_batch_free(batch)
        threads.give_back()
        if code:
            raise EngineError(f"llama.cpp could not decode {n} embeddings ({log.complaint()}).")
        self.n_front = n

    def put_state(self, state: State) -> None:
        """Restore the first token and what stands behind it."""
        self.restore_whole(state, 0)
        self.n_front = self.n_held(0) - 1

    def save_file(self, path: Path, tokens: Sequence[int]) -> None:
        """Write the cells of sequence 0 to a file, as llama-server's slots do."""
        array = (llama.llama_token * len(tokens))(*tokens)
        llama.llama_state_seq_save_file(self.handle, os.fsencode(path), 0, array, len(tokens))

    def load_file(self, path: Path) -> None:
        """Restore the first token and what stands behind it from a file."""
        held, room = ctypes.c_size_t(), (llama.llama_token * self.n_ctx)()
        if not llama.llama_state_seq_load_file(
            self.handle, os.fsencode(path), 0, room, self.n_ctx, ctypes.byref(held)
        ):
            raise EngineError(f"llama.cpp cannot restore {path} ({log.complaint()}).")
        self.n_front = self.n_held(0) - 1


class Block(NamedTuple):
    """Keys and values of all cells at one block, (n_cells, n) each, where they lie in a state."""

    keys: NDArray[Any]
    values: NDArray[Any]


def trained_state(
    state: State, before: Sequence[tuple[Array, Array]], after: Sequence[tuple[Array, Array]]
) -> State:
    """Return a state with other cells behind its first.

    Args:
        state: of a sequence of 1 + n tokens.
        before: keys and values that its blocks should have behind the first, (n, ...) each.
        after: what they get.

    Raises:
        EngineError: llama.cpp keeps its cells otherwise than was thought.
    """
    state = state.copy()
    blocks = blocks_of(state)
    if len(blocks) != len(before):
        raise EngineError(f"llama.cpp keeps cells of {len(blocks)} blocks, not {len(before)}.")
    for block, was, becomes in zip(blocks, before, after, strict=True):
        for cells, expected, new in zip(block, was, becomes, strict=True):
            apart = np.linalg.norm(cells[1:] - expected) / np.linalg.norm(expected)
            if not apart < _MOST_APART:
                raise EngineError(
                    f"llama.cpp keeps keys or values otherwise than torch ({apart:.0%} apart), so "
                    "a trained K/V prefix cannot be put into this model."
                )
            cells[1:] = new
    return state


def blocks_of(state: State) -> list[Block]:
    """Return keys and values of a state, as writable views.

    Raises:
        EngineError: it is laid out in another way.
    """
    walk = _Walk(state)
    _magic, _flags, n_streams, n_cells = walk.numbers(np.uint32, 4)
    walk.at += _PLACE_BYTES * int(n_cells)
    transposed, n_blocks = walk.numbers(np.uint32, 2)
    if n_streams != 1 or transposed > 1 or n_blocks > state.size:
        raise EngineError("llama.cpp lays out its states in a way that is not known here.")
    keys = [walk.rows(int(n_cells)) for _ in range(n_blocks)]
    take = walk.columns if transposed else walk.rows
    values = [take(int(n_cells)) for _ in range(n_blocks)]
    if walk.at != state.size:
        raise EngineError("llama.cpp lays out its states in a way that is not known here.")
    return [Block(*pair) for pair in zip(keys, values, strict=True)]


class _Walk:
    def __init__(self, state: State) -> None:
        self._state, self.at = state, 0

    def numbers(self, kind: type, n: int) -> NDArray[Any]:
        size = np.dtype(kind).itemsize * n
        taken = self._state[self.at : self.at + size]
        self.at += size
        if taken.size < size:
            raise EngineError("llama.cpp lays out its states in a way that is not known here.")
        return taken.view(kind)

    def _kind(self) -> type:
        (number,) = self.numbers(np.int32, 1)
        if int(number) not in _NUMBERS:
            raise EngineError("a trained K/V prefix needs a cache in f16 or f32; leave type_k out.")
        return _NUMBERS[int(number)]

    def rows(self, n_cells: int) -> NDArray[Any]:
        kind = self._kind()
        (n_bytes,) = self.numbers(np.uint64, 1)
        n = int(n_bytes) // np.dtype(kind).itemsize
        return self.numbers(kind, n_cells * n).reshape(n_cells, n)

    def columns(self, n_cells: int) -> NDArray[Any]:
        kind = self._kind()
        _, n = self.numbers(np.uint32, 2)
        return self.numbers(kind, n_cells * int(n)).reshape(int(n), n_cells).T
