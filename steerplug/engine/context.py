"""One llama.cpp context with its steering hook: decode rows, read logits, cut the KV cache back.

Batches are at most `n_batch` rows and are evaluated in one piece, in batch order, so row r of a
batch is row r of every block's output (the last one may hold only the rows whose logits are asked
for). The hook refuses any other arrangement rather than guess.
"""

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llama_cpp import llama_cpp as llama

from steerplug.engine import log, row_order, threads
from steerplug.engine.device_route import DeviceRoute
from steerplug.engine.devices import tensors_on_host
from steerplug.engine.hook import Capture, Hook, RowSteering
from steerplug.engine.kv_cache import check_memory
from steerplug.engine.model import Model
from steerplug.engine.params import set_context_params
from steerplug.engine.processors import n_processors
from steerplug.engine.routes import Route, buffer_types
from steerplug.engine.sequences import Sequences, n_window_cells
from steerplug.engine.sizes import N_CTX
from steerplug.errors import EngineError, ModelError
from steerplug.steering.value import Array

_NO_ROOM = 1


class Row(NamedTuple):
    """One token to decode, at a position of a sequence."""

    token: int
    position: int
    output: bool = False
    steering: RowSteering | None = None
    sequence: int = 0


class Context(Sequences):
    """A context of `n_ctx` cells on a model.

    Args:
        model: the loaded model.
        n_ctx: how many tokens the KV cache holds.
        n_batch: how many rows one decode takes; default: as the model was loaded for.
        n_seq: how many sequences share the cache.
        swa_full: keep every token that sliding windows have passed; if not, and where it takes less
            memory, they keep what they reach, and a sequence can be cut back no further.
        n_threads: threads; default: as the model was loaded for, or as many as there are processors
            at hand (`processors`).
        on_host: override how the hook reaches tensors; default: as the build needs.
        on_device: have devices steer by themselves, host memory among them, or never; default:
            where there are devices, unless they cannot.
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
        n_batch: int | None = None,
        n_seq: int = 1,
        swa_full: bool = True,
        n_threads: int | None = None,
        on_host: bool | None = None,
        on_device: bool | None = None,
        hooked: bool = True,
    ) -> None:
        self.model, self.n_seq, self._hooked = model, n_seq, hooked
        self._logits_row = ctypes.c_float * model.vocab.n_tokens  # a type, slow to make anew
        self._handle: ctypes.c_void_p | None = None
        self._batch: Any = None
        self._devices: DeviceRoute | None = None
        asked = model.loading
        n_batch = asked.n_batch if n_batch is None else n_batch
        for name, value in (("n_ctx", n_ctx), ("n_batch", n_batch), ("n_seq", n_seq)):
            if value < 1:
                raise ModelError(f"{name} is {value}; give at least 1.")
        n_ctx = max(n_ctx, n_seq)  # with fewer cells or rows than sequences, llama.cpp aborts
        self.n_batch = min(max(n_batch, n_seq), n_ctx)
        host = tensors_on_host() if on_host is None else on_host
        if tensors_on_host():
            check_memory(model.whole_number, model.n_layer, n_ctx, asked)
        self._params = params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = n_ctx, n_seq
        params.n_batch = params.n_ubatch = self.n_batch
        self.n_threads = n_threads or asked.n_threads or n_processors()
        params.n_threads = self.n_threads
        params.n_threads_batch = asked.n_threads_batch or self.n_threads
        params.kv_unified, params.no_perf = True, True
        set_context_params(params, asked)
        self.is_windowed = not swa_full and n_window_cells(model, n_seq, self.n_batch) < n_ctx
        params.swa_full = not self.is_windowed
        self.why = ""
        if on_device is None:
            on_device = hooked and not host
        buffers = self._buffers(host_too=tensors_on_host()) if on_device else None
        if buffers and any(buffers):
            self._try_devices(buffers)
        if self._handle is None:
            hook = self._hook(on_host=host)
            if buffers and not any(buffers):  # nodes compute where all blocks lie
                hook.in_graph = True
            self._open(hook)
            self._probe()
        if hooked and n_seq > 1 and model.is_recurrent:
            self._prove_row_order()

    def _hook(self, *, on_host: bool, route: DeviceRoute | None = None) -> Hook:
        model = self.model
        hook = Hook(
            model.n_embd, model.n_layer, self.n_batch, on_host=on_host, output=model.block_output,
            route=route,
        )
        hook.in_graph &= self._hooked
        return hook

    def _open(self, hook: Hook) -> None:
        """Make the context that a hook steers."""
        model, params = self.model, self._params
        self.hook = hook
        if self._hooked and hook.route is None:
            params.cb_eval = llama.ggml_backend_sched_eval_callback(hook.callback)
            params.cb_eval_user_data = hook.user_data
        log.take_over()
        hook.stand_by(0)  # memory is set aside for graphs that steer
        try:
            self._handle = model.new_context(params)
        finally:
            hook.disarm()
        if not self._handle:
            reason = log.complaint()
            is_of_types = "cache" in reason and "alloc" not in reason
            cure = "take other types" if is_of_types else "choose a smaller n_ctx"
            raise ModelError(
                f"no context of {params.n_ctx} tokens could be made for {model.path.name} "
                f"({reason}); {cure}."
            )
        if hook.route is not None:
            hook.route.of(self._handle)
        self.n_ctx = int(llama.llama_n_ctx(self._handle))
        self._batch = llama.llama_batch_init(self.n_batch, 0, 1)

    def _buffers(self, *, host_too: bool) -> list[int | None] | None:
        """Return on which devices blocks lie, see `buffer_types`; None: no device can steer."""
        try:
            return buffer_types(self.model, host_too=host_too)
        except EngineError as error:
            self.why = str(error)
            return None

    def _try_devices(self, buffers: Sequence[int | None]) -> None:
        """Make a context whose devices steer by themselves, if a decode shows that they do."""
        try:
            self._devices = route = DeviceRoute(self.model.n_embd, buffers, self.n_batch)
            self._open(self._hook(on_host=False, route=route))
            for _ in range(2):  # the second would have the same graph
                route.build_anew()
                if missing := self._missing():
                    raise EngineError(f"block {missing[0]} is in no graph that could steer it")
        except EngineError as error:
            self.close()
            self.why = str(error)
        threads.give_back()

    def _probe(self) -> None:
        """Decode one token and count: every block must be met exactly once, by node or callback."""
        if not self._hooked:
            return
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
        token = max(self.model.vocab.bos, 0)
        self.decode([Row(token, 0, output=True)], watch_all=True)
        self._measure()
        self.clear()
        return [il for il, count in enumerate(self.hook.seen) if count != 1]

    def _prove_row_order(self) -> None:
        """Refuse a model whose rows llama.cpp regroups; see `row_order`."""
        token = max(self.model.vocab.bos, 0)

        def decode(steering: Sequence[RowSteering | None]) -> list[Array]:
            self.clear()
            self.decode([Row(token, 0, True, what, i) for i, what in enumerate(steering)])
            return [self.logits(i) for i in range(len(steering))]

        try:
            row_order.prove(self.model, self.n_seq, decode)
        except ModelError:
            self.close()
            raise
        self.clear()
        threads.give_back()

    @property
    def route(self) -> Route:
        """By which route it is steered."""
        if self._devices is not None:
            return "device"
        return "node" if self.hook.in_graph else "callback"

    @property
    def handle(self) -> ctypes.c_void_p:
        """The `llama_context` pointer."""
        if self._handle is None or not self.model.has_context(self._handle):
            raise EngineError("this context is closed; open the model again.")
        return self._handle

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

    def close(self) -> None:
        """Free the context."""
        if self._batch is not None:
            llama.llama_batch_free(self._batch)
            self._batch = None
        if self._handle is not None:
            self.model.free_context(self._handle)
            self._handle = None
        if self._devices is not None:
            self._devices.close()
            self._devices = None

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing():  # llama.cpp's log would call into what is gone
            self.close()
