"""The graph into which blocks go that llama.cpp's own leaves out; native/given.c fills it."""

import weakref

from steerplug.engine import ggml

_NODES_PER_BLOCK = 4096
"""Many times what any architecture has; ggml ends the process where a graph has no room."""


class LeftOut:
    """A graph of ggml's with room for all blocks of a model, which is never computed."""

    def __init__(self, n_layer: int) -> None:
        size = n_layer * _NODES_PER_BLOCK
        n_bytes = ggml.call("ggml_graph_overhead_custom", size, False)
        memory = ggml.call("ggml_init", ggml.InitParams(n_bytes, None, True))
        weakref.finalize(self, ggml.call, "ggml_free", memory)
        self.address = int(ggml.call("ggml_new_graph_custom", memory, size, False))
