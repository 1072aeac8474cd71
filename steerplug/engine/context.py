"""One llama.cpp context with its steering hook, opened so that every block can be steered.

What it decodes is the business of `rows`, what it holds that of `sequences`. By which route it
is steered (`routes`) is tried out here: a decode has to meet every block once.
"""

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llama_cpp import llama_cpp as llama

from steerplug.engine import log, row_order, threads
from steerplug.engine.device_route import DeviceRoute
from steerplug.engine.devices import tensors_on_host
from steerplug.engine.hook import Hook, RowSteering
from steerplug.engine.kv_cache import check_memory
from steerplug.engine.loading import CACHE_TYPES
from steerplug.engine.model import Model
from steerplug.engine.params import set_context_params
from steerplug.engine.processors import n_processors
from steerplug.engine.routes import Route, buffer_types
from steerplug.engine.rows import Row, Rows
from steerplug.engine.sequences import n_window_cells
from steerplug.engine.sizes import N_CTX
from steerplug.errors import EngineError, ModelError
from steerplug.steering.value import Array


class Context(Rows):
    """A context of `n_ctx` cells on a model.

    Args:
        model: the loaded model.
        n_ctx: how many tokens the KV cache holds.
        n_batch: how many rows one decode takes; default: as the model was loaded for.
        n_seq: how many sequences share the cache.
        swa_full: keep every token that sliding windows have passed; if not, and where it takes less
            memory, they keep what they reach, and a sequence can be cut back no further.
        type_v: of the cache of values; default: as the model was loaded for.
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
        type_v: str | None = None,
        n_threads: int | None = None,
        on_host: bool | None = None,
        on_device: bool | None = None,
        hooked: bool = True,
    ) -> None:
        self.model, self.n_seq, self._hooked = model, n_seq, hooked
        self._handle: ctypes.c_void_p | None = None
        self._batch: Any = None
        self._devices: DeviceRoute | None = None
        self.why = ""
        """Why no device steers by itself, where one was to."""
        self._set_sizes(n_ctx, n_batch, swa_full=swa_full)
        self.type_v = type_v or model.loading.type_v
        self._params.type_v = CACHE_TYPES[self.type_v]
        self._set_threads(n_threads)
        host = tensors_on_host() if on_host is None else on_host
        if on_device is None:
            on_device = hooked and not host
        self._open_by_a_route(on_host=host, on_device=on_device)
        if hooked and n_seq > 1 and model.is_recurrent:
            self._prove_row_order()

    def _set_sizes(self, n_ctx: int, n_batch: int | None, *, swa_full: bool) -> None:
        """Fill llama.cpp's parameters with sizes, and with what the loading says of a context."""
        model, n_seq, asked = self.model, self.n_seq, self.model.loading
        n_batch = asked.n_batch if n_batch is None else n_batch
        for name, value in (("n_ctx", n_ctx), ("n_batch", n_batch), ("n_seq", n_seq)):
            if value < 1:
                raise ModelError(f"{name} is {value}; give at least 1.")
        n_ctx = max(n_ctx, n_seq)  # with fewer cells or rows than sequences, llama.cpp aborts
        self.n_batch = min(max(n_batch, n_seq), n_ctx)
        if tensors_on_host():
            check_memory(model.whole_number, model.n_layer, n_ctx, asked)
        self._params = params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = n_ctx, n_seq
        params.n_batch = params.n_ubatch = self.n_batch
        params.kv_unified, params.no_perf = True, True
        set_context_params(params, asked)
        self.is_windowed = not swa_full and n_window_cells(model, n_seq, self.n_batch) < n_ctx
        params.swa_full = not self.is_windowed

    def _set_threads(self, n_threads: int | None) -> None:
        asked, params = self.model.loading, self._params
        self.n_threads = n_threads or asked.n_threads or n_processors()
        params.n_threads = self.n_threads
        params.n_threads_batch = asked.n_threads_batch or self.n_threads

    def _open_by_a_route(self, *, on_host: bool, on_device: bool) -> None:
        """Make the context, steered by the first route that meets every block."""
        buffers = self._buffers(host_too=tensors_on_host()) if on_device else None
        if buffers and any(buffers):
            self._try_devices(buffers)
        if self._handle is None:
            hook = self._hook(on_host=on_host)
            if buffers and not any(buffers):  # nodes compute where all blocks lie
                hook.in_graph = True
            self._open(hook)
            self._probe()

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
