"""The rows that a context decodes, in batches: tokens in, logits and activations out.

Batches are at most `n_batch` rows and are evaluated in one piece, in batch order, so row r of a
batch is row r of every block's output (the last one may hold only the rows whose logits are asked
for). The hook refuses any other arrangement rather than guess.
"""

import ctypes
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from llama_cpp import llama_cpp as llama

from steerplug.engine import log
from steerplug.engine.capture import Capture
from steerplug.engine.hook import Hook, RowSteering
from steerplug.engine.sequences import Sequences
from steerplug.errors import EngineError
from steerplug.steering.value import Array

_NO_ROOM = 1


class Row(NamedTuple):
    """One token to decode, at a position of a sequence."""

    token: int
    position: int
    output: bool = False
    steering: RowSteering | None = None
    sequence: int = 0


class Rows(Sequences):
    """The rows of a context, see there."""

    hook: Hook
    _hooked: bool
    _batch: Any

    def decode(
        self, rows: Sequence[Row], capture: Capture | None = None, *, watch_all: bool = False
    ) -> Array | None:
        """Decode at most `n_batch` rows; return the captured activations if any were asked for.

        Raises:
            EngineError: llama.cpp failed, or steering did; the rows' cells are then undefined.
        """
        handle, batch = self.handle, self._batch
        if not 0 < len(rows) <= self.n_batch:
            raise EngineError(f"a batch of {len(rows)} rows; send 1 to {self.n_batch}.")
        batch.n_tokens = len(rows)
        for i, row in enumerate(rows):
            batch.token[i] = row.token
            batch.pos[i] = row.position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = row.sequence
            batch.logits[i] = row.output
        captured = None
        if watch_all or capture is not None or any(row.steering for row in rows):
            captured = self.hook.arm(
                [row.steering for row in rows], [row.output for row in rows], capture,
                watch_all=watch_all,
            )
        elif self._hooked:
            self.hook.stand_by(len(rows))
        log.forget()
        self._code = code = -1
        try:
            self._code = code = llama.llama_decode(handle, batch)
        finally:  # also when Ctrl-C arrives here: nothing armed may reach the next decode
            self.hook.disarm(decoded=code == 0)
        if code:
            raise EngineError(
                f"llama.cpp could not decode {len(rows)} tokens (code {code}: {log.complaint()}); "
                "shorten the prompt or raise n_ctx."
            )
        return captured

    @property
    def is_torn(self) -> bool:
        """Whether the last decode, which failed, may have been evaluated in part."""
        return self._code not in (0, _NO_ROOM) or not self.hook.in_graph

    def logits(self, row: int) -> Array:
        """Return a copy of the logits of batch row `row` of the last decode, (n_vocab,)."""
        return self.logits_in_place(row).copy()

    def logits_in_place(self, row: int) -> Array:
        """Return the logits of batch row `row` where samplers read them, until the next decode."""
        pointer = llama.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise EngineError(f"no logits were asked for at row {row} of the last batch.")
        row_in_place = self._logits_row.from_address(ctypes.addressof(pointer.contents))
        logits: Array = np.frombuffer(memoryview(row_in_place), np.float32)
        return logits

    @cached_property
    def _logits_row(self) -> type["ctypes.Array[ctypes.c_float]"]:
        """The type of a row of logits, which is slow to make anew."""
        return ctypes.c_float * self.model.vocab.n_tokens
