"""One llama.cpp context with its steering hook: decode rows, read logits, cut the KV cache back.

Batches are at most `n_batch` rows and are evaluated in one piece, in batch order, so row r of a
batch is row r of every block's output (the last one may hold only the rows whose logits are asked
for). The hook refuses any other arrangement rather than guess.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llama_cpp import llama_cpp as llama

from steerplug.engine import ggml, log, threads
from steerplug.engine.hook import Applied, Capture, Hook
from steerplug.engine.model import Model
from steerplug.engine.processors import n_processors
from steerplug.engine.sizes import N_CTX
from steerplug.errors import EngineError, ModelError
from steerplug.steering.value import Array


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
        n_batch: int = 512,
        n_seq: int = 1,
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
        if n_seq > 1 and model.is_recurrent:
            raise ModelError(
                f"{model.path.name} ({model.architecture}) is recurrent, and llama.cpp may regroup "
                "the rows of several sequences; use n_seq = 1."
            )
        n_ctx = max(n_ctx, n_seq)  # with fewer cells or rows than sequences, llama.cpp aborts
        self.n_batch = min(max(n_batch, n_seq), n_ctx)
        host = ggml.tensors_on_host() if on_host is None else on_host
        self.hook = Hook(
            model.n_embd, model.n_layer, self.n_batch, on_host=host, output=model.block_output
        )
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = n_ctx, n_seq
        params.n_batch = params.n_ubatch = self.n_batch
        self.n_threads = n_threads or n_processors()
        params.n_threads = params.n_threads_batch = self.n_threads
        params.kv_unified, params.no_perf = True, True
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

    def _probe(self) -> None:
        """Decode one token and count: every block must be met exactly once, by node or callback."""
        architecture = f"the architecture `{self.model.architecture}`"
        try:
            missing = self._missing()
            if missing and self.hook.in_graph:
                self.hook.in_graph = False
                missing = self._missing()
        except EngineError as error:
            self.close()
            raise ModelError(f"{architecture} cannot be steered here: {error}") from None
        threads.give_back()
        if missing:
            self.close()
            raise ModelError(
                f"{architecture} does not expose the output of {len(missing)} of "
                f"{self.model.n_layer} blocks (first: {missing[0]}) as "
                f"{self.model.block_output.tensor}-N, so llama.cpp cannot steer it; use another "
                "model."
            )

    def _missing(self) -> list[int]:
        """Return the blocks that the hook does not meet exactly once in a decode."""
        token = self.model.vocab.bos if self.model.vocab.bos >= 0 else 0
        self.decode([Row(token, 0, output=True)], watch_all=True)
        self.cell_bytes = int(llama.llama_state_seq_get_size(self.handle, 0))
        self.clear()
        return [il for il, count in enumerate(self.hook.seen) if count != 1]

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
        code = -1
        try:
            code = llama.llama_decode(handle, batch)
        finally:  # also when Ctrl-C arrives here: nothing armed may reach the next decode
            self.hook.disarm(decoded=code == 0)
        if code:
            raise EngineError(
                f"llama.cpp could not decode {len(rows)} tokens (code {code}: {log.complaint()}); "
                "shorten the prompt or raise n_ctx."
            )
        return captured

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

        A recurrent state cannot be cut back, so it is dropped whole.
        """
        if llama.llama_memory_seq_rm(self._memory, sequence, n, -1):
            return n
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return 0

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
