"""A context that writes down llama.cpp's graph of a decode, and leaves it uncomputed.

Before llama.cpp computes a graph it hands each of its tensors to a callback, with the inputs
filled. They are taken over there, and the decode is broken off: nothing of it has been computed,
and the cells are as before.
"""

import ctypes
import weakref
from collections.abc import Sequence
from functools import partial

from llama_cpp import llama_cpp as llama

from steerplug.engine import log
from steerplug.engine.context import Context
from steerplug.engine.graph import Graph
from steerplug.engine.hook import Hook
from steerplug.engine.loading import CACHE_TYPES
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.errors import EngineError


class Recorder(Context):
    """A context without steering, whose graphs can be taken over; its cells are not quantised.

    Args:
        model: the loaded model, its weights in host memory.
        n_ctx: how many tokens the KV cache holds.
        n_batch: how many rows one decode takes.
        n_seq: how many sequences share the cache.
    """

    def __init__(self, model: Model, *, n_ctx: int, n_batch: int, n_seq: int) -> None:
        self._watch = _Watch()
        super().__init__(model, n_ctx=n_ctx, n_batch=n_batch, n_seq=n_seq, hooked=False)
        llama.llama_set_abort_callback(self.handle, self._watch.breaks, None)

    def _open(self, hook: Hook) -> None:
        params, asked = self._params, self.model.loading
        params.cb_eval = self._watch.meets
        if not {asked.type_k, asked.type_v} <= {"f16", "f32"}:
            params.type_k = params.type_v = CACHE_TYPES["f16"]
        super()._open(hook)

    def record(self, rows: Sequence[Row]) -> Graph:
        """Return the graph of a decode of at most `n_batch` rows.

        Numbers of inputs and cells are seen where they lie, and change with the next decode.

        Raises:
            EngineError: llama.cpp makes no graph of them, or several.
        """
        watch = self._watch
        watch.graph = graph = Graph(frozenset(self.model.header.tensors))
        watch.error = None
        try:
            with log.unheard():  # which tells of a failure
                self.decode(rows)
        except EngineError as error:
            if watch.error or not graph.nodes:
                raise watch.error or error from None
        finally:
            watch.graph = None
        return graph


class _Watch:
    """What llama.cpp calls while it decodes, and what comes of it; it lives as long as the context.

    It knows nothing of the context, which could not be freed at once if it did.
    """

    def __init__(self) -> None:
        self.graph: Graph | None = None
        self.error: EngineError | None = None
        self.meets = llama.ggml_backend_sched_eval_callback(partial(_met, weakref.proxy(self)))
        self.breaks = llama.ggml_abort_callback(partial(_is_watching, weakref.proxy(self)))


def _met(watch: _Watch, tensor: int, is_asked: bool, _data: ctypes.c_void_p) -> bool:
    """Take a tensor over; whatever is asked for, nothing is wanted computed by itself."""
    if is_asked and watch.graph is not None and watch.error is None:
        try:
            watch.graph.add(tensor)
        except EngineError as error:
            watch.error = error
    return False


def _is_watching(watch: _Watch, _data: ctypes.c_void_p) -> bool:
    return watch.graph is not None
