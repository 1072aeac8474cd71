"""A context that writes down llama.cpp's graph of a decode, and leaves it uncomputed.

Before llama.cpp computes a graph it hands each of its tensors to a callback, with the inputs
filled. They are taken over there, and the decode is broken off: nothing of it has been computed,
and the cells are as before.
"""

import ctypes
from collections.abc import Sequence

from llama_cpp import llama_cpp as llama

from steerplug.engine import log
from steerplug.engine.context import Context
from steerplug.engine.graph import Graph
from steerplug.engine.hook import Hook
from steerplug.engine.loading import CACHE_TYPES
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.errors import EngineError

_LAST = "result_output"
"""What llama.cpp calls the logits, of every architecture."""


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
        else:
            raise EngineError("llama.cpp computed what it was to hand over; its inputs are gone.")
        finally:
            watch.graph = None
        if graph.nodes[-1].name != _LAST:
            raise EngineError("llama.cpp computes it in several parts, and handed over the first.")
        return graph


class _Watch:
    """What llama.cpp calls while it decodes, and what comes of it; it lives as long as the context.

    It knows nothing of the context, which could not be freed at once if it did.
    """

    def __init__(self) -> None:
        self.graph: Graph | None = None
        self.error: Exception | None = None
        self.meets = llama.ggml_backend_sched_eval_callback(self._met)
        self.breaks = llama.ggml_abort_callback(lambda _: self.graph is not None)

    def _met(self, tensor: int, is_asked: bool, _: ctypes.c_void_p) -> bool:
        """Take a tensor over; whatever is asked for, nothing is wanted computed by itself."""
        if is_asked and self.graph is not None and self.error is None:
            try:
                self.graph.add(tensor)
            except Exception as error:  # which C would drop
                self.error = error
        return False
