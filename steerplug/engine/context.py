"""One llama.cpp context with its steering hook: decode rows, read logits, cut the KV cache back.

Batches are at most `n_batch` rows and are evaluated in one piece, in batch order, so row r of a
batch is row r of every `l_out-{il}` (the last block may hold only the rows whose logits are asked
for). The hook refuses any other arrangement rather than guess.

A recurrent state cannot be cut back, and neither can sliding windows that keep no more than they
reach (`swa_full` off). That part of a sequence can be saved, and restored into any that holds the
cells of the rest.
"""

import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from steerplug.engine import ggml, log, row_order, threads
from steerplug.engine.hook import Applied, Capture, Hook
from steerplug.engine.model import Model
from steerplug.engine.processors import n_processors
from steerplug.engine.sizes import N_BATCH, N_CTX
from steerplug.errors import EngineError, ModelError
from steerplug.steering.value import Array

State = NDArray[np.uint8]
"""A copy of what of a sequence cannot be cut back."""

_PARTIAL = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
_WINDOW_PADDING = 256
_NO_ROOM = 1


class Row(NamedTuple):
    """One token to decode, at a position of a sequence."""

    token: int
    position: int
    output: bool = False
    applied: Applied | None = None
    sequence: int = 0


class Context:
    """A context of `n_ctx` cells on a model.

    Args:
        model: the loaded model.
        n_ctx: how many tokens the KV cache holds.
        n_batch: how many rows one decode takes.
        n_seq: how many sequences share the cache.
        swa_full: keep every token that sliding windows have passed; if not, and where it takes less
            memory, they keep what they reach, and a sequence can be cut back no further.
        n_threads: threads; default: as many as there are processors at hand (`processors`).
        on_host: override how the hook reaches tensors; default: as the build needs.
        hooked: set the hook; without it nothing can be steered, which is what `bench` compares
            with.

    Raises:
        ModelError: no context could be made, or the architecture does not expose every block.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = N_CTX,
        n_batch: int = N_BATCH,
        n_seq: int = 1,
        swa_full: bool = True,
        n_threads: int | None = None,
        on_host: bool | None = None,
        hooked: bool = True,
    ) -> None:
        self.model, self.n_seq, self._hooked = model, n_seq, hooked
        self._logits_row = ctypes.c_float * model.vocab.n_tokens  # a type, slow to make anew
        self._handle: ctypes.c_void_p | None = None
        self._batch: Any = None
        for name, value in (("n_ctx", n_ctx), ("n_batch", n_batch), ("n_seq", n_seq)):
            if value < 1:
                raise ModelError(f"{name} is {value}; give at least 1.")
        n_ctx = max(n_ctx, n_seq)  # with fewer cells or rows than sequences, llama.cpp aborts
        self.n_batch = min(max(n_batch, n_seq), n_ctx)
        host = ggml.tensors_on_host() if on_host is None else on_host
        self.hook = Hook(model.n_embd, model.n_layer, self.n_batch, on_host=host)
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = n_ctx, n_seq
        params.n_batch = params.n_ubatch = self.n_batch
        self.n_threads = n_threads or n_processors()
        params.n_threads = params.n_threads_batch = self.n_threads
        params.kv_unified, params.no_perf = True, True
        self._n_window_cells = min(n_window_cells(model, n_seq, self.n_batch), n_ctx)
        self.is_windowed = not swa_full and self._n_window_cells < n_ctx
        params.swa_full = not self.is_windowed
        if hooked:
            params.cb_eval = llama.ggml_backend_sched_eval_callback(self.hook.callback)
            params.cb_eval_user_data = self.hook.user_data
        log.take_over()
        self.hook.in_graph &= hooked
        self.hook.stand_by(0)  # memory is set aside for graphs that steer
        try:
            self._handle = model.new_context(params)
        finally:
            self.hook.disarm()
        if not self._handle:
            raise ModelError(
                f"no context of {n_ctx} tokens could be made for {model.path.name} "
                f"({log.complaint()}); choose a smaller n_ctx."
            )
        self.n_ctx = int(llama.llama_n_ctx(self._handle))
        self._batch = llama.llama_batch_init(self.n_batch, 0, 1)
        if hooked:
            self._probe()
            if n_seq > 1 and model.is_recurrent:
                self._prove_row_order()

    def _probe(self) -> None:
        """Decode one token and count: every block must be met exactly once, by node or callback."""
        missing = self._missing()
        if missing and self.hook.in_graph:
            self.hook.in_graph = False
            missing = self._missing()
        threads.give_back()
        if missing:
            self.close()
            raise ModelError(
                f"the architecture `{self.model.architecture}` does not expose the output of "
                f"{len(missing)} of {self.model.n_layer} blocks (first: {missing[0]}) as l_out-N, "
                "so llama.cpp cannot steer it; use another model."
            )

    def _missing(self) -> list[int]:
        """Return the blocks that the hook does not meet exactly once in a decode."""
        token = max(self.model.vocab.bos, 0)
        self.decode([Row(token, 0, output=True)], watch_all=True)
        self._measure()
        self.clear()
        return [il for il, count in enumerate(self.hook.seen) if count != 1]

    def _prove_row_order(self) -> None:
        """Refuse a model whose rows llama.cpp regroups; see `row_order`."""
        token = max(self.model.vocab.bos, 0)

        def decode(applied: Sequence[Applied | None]) -> list[Array]:
            self.clear()
            self.decode([Row(token, 0, True, what, i) for i, what in enumerate(applied)])
            return [self.logits(i) for i in range(len(applied))]

        try:
            row_order.prove(self.model, self.n_seq, decode)
        except ModelError:
            self.close()
            raise
        self.clear()
        threads.give_back()

    def _measure(self) -> None:
        """Measure what a sequence of one token takes."""
        self.cell_bytes = int(llama.llama_state_seq_get_size(self.handle, 0))
        self.state_bytes = 0
        if self.model.has_states:
            self.state_bytes = int(llama.llama_state_seq_get_size_ext(self.handle, 0, _PARTIAL))
            self.cell_bytes -= self.state_bytes

    @property
    def can_be_cut(self) -> bool:
        """Whether any sequence can be cut back to any of its positions."""
        return not (self.is_windowed or self.model.is_recurrent)

    @property
    def n_cells(self) -> int:
        """How many tokens all sequences hold; a state alone takes no more for a longer one."""
        return self.n_ctx if self.model.has_attention else self.n_ctx * self.n_seq

    @property
    def checkpoint_bytes(self) -> int:
        """Memory of a copy of what of a sequence cannot be cut back."""
        return self.state_bytes * (1 if self.model.is_recurrent else self.model.n_swa)

    @property
    def kv_bytes(self) -> int:
        """Memory of all cells, and of the states of all sequences."""
        n_window_cells = int(self._n_window_cells) if self.is_windowed else self.n_ctx
        n_states = self.n_seq if self.model.is_recurrent else n_window_cells
        return self.cell_bytes * self.n_ctx + self.state_bytes * n_states

    @property
    def handle(self) -> ctypes.c_void_p:
        """The `llama_context` pointer."""
        if self._handle is None or not self.model.has_context(self._handle):
            raise EngineError("this context is closed; open the model again.")
        return self._handle

    @property
    def _memory(self) -> ctypes.c_void_p:
        memory: ctypes.c_void_p = llama.llama_get_memory(self.handle)
        return memory

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
        if watch_all or capture is not None or any(row.applied for row in rows):
            captured = self.hook.arm(
                [row.applied for row in rows], [row.output for row in rows], capture,
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

    def keep(self, n: int, sequence: int = 0) -> int:
        """Drop a sequence's cells from position n on; return how many are left (n, or 0).

        Where it cannot be cut back so far, it is dropped whole.
        """
        if self.reaches(n, sequence) and llama.llama_memory_seq_rm(self._memory, sequence, n, -1):
            return n
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return 0

    def reaches(self, n: int, sequence: int) -> bool:
        """Whether a sequence can be cut back to its first n positions."""
        if self.can_be_cut or n == 0:
            return True
        first = int(llama.llama_memory_seq_pos_min(self._memory, sequence))
        return first < n if self.model.is_recurrent else first <= max(n - self.model.n_swa, 0)

    def save(self, sequence: int) -> State:
        """Return a copy of what of a sequence cannot be cut back."""
        n = llama.llama_state_seq_get_size_ext(self.handle, sequence, _PARTIAL)
        state = np.empty(n, np.uint8)
        n_saved = llama.llama_state_seq_get_data_ext(
            self.handle, _bytes(state), n, sequence, _PARTIAL
        )
        if n_saved != n:
            raise EngineError(f"the state of sequence {sequence} could not be saved.")
        return state

    def restore(self, state: State, sequence: int) -> None:
        """Put a saved state into a sequence that holds the other cells, and maybe more of them."""
        n_read = llama.llama_state_seq_set_data_ext(
            self.handle, _bytes(state), state.size, sequence, _PARTIAL
        )
        if n_read != state.size:
            raise EngineError(f"the state of sequence {sequence} could not be restored.")

    def share(self, source: int, sequence: int, begin: int, end: int) -> None:
        """Let a sequence hold another's cells of positions [begin, end) as well; none is copied."""
        llama.llama_memory_seq_cp(self._memory, source, sequence, begin, end)

    def n_held(self, sequence: int) -> int:
        """Return how many cells a sequence holds, which begin at position 0."""
        return int(llama.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def clear(self) -> None:
        """Drop all cells of all sequences."""
        llama.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Free the context."""
        if self._batch is not None:
            llama.llama_batch_free(self._batch)
            self._batch = None
        if self._handle is not None:
            self.model.free_context(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.close()


def n_window_cells(model: Model, n_seq: int, n_batch: int = N_BATCH) -> float:
    """Return how many cells llama.cpp has for sliding windows that keep what they reach.

    Infinite for a model that looks back at everything.
    """
    n = n_seq * model.n_swa + n_batch
    return -(-n // _WINDOW_PADDING) * _WINDOW_PADDING if model.n_swa else math.inf


def _bytes(state: State) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
