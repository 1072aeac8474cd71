"""What Python and native code share of a hook: `sp_hook` of native/steer.h, field by field."""

import ctypes
import struct
from functools import cache

import numpy as np

from steerplug.engine import ggml
from steerplug.engine.block_output import BlockOutput


class HookState(ctypes.Structure):
    """The struct; arrays and the route are set by whoever keeps them."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "get_name", "nelements", "nbytes", "get_data", "tensor_get", "tensor_set", "op_desc",
            "is_contiguous", "map1", "map2", "like", "expand", "graph_clear",
            "graph_n_nodes", "graph_node")),
        ("output_name", ctypes.c_char_p),
        *((name, ctypes.c_int32) for name in (
            "n_embd", "n_layer", "n_streams", "mean", "on_host", "sources_at", "in_graph")),
        *((name, ctypes.c_void_p) for name in ("copy", "delta", "h", "route", "left_out")),
        *((name, ctypes.c_void_p) for name in (
            "output", "watched", "first", "terms", "capture_layer", "capture_row", "captured")),
        ("n_captured_rows", ctypes.c_int32), ("given", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in (
            "given_il", "last_il", "built_for", "n_built", "is_asked", "n_rows")),
        *((name, ctypes.c_void_p) for name in ("moved", "steered", "seen")),
        *((name, ctypes.c_int64) for name in ("applied", "expected", "found")),
        *((name, ctypes.c_int32) for name in ("status", "status_il", "active")),
    )


TERM = np.dtype([("layers", np.uintp), ("strength", np.float32)], align=True)
"""A term of a row: where what it does at each block is told, and how strongly."""


def hook_state(
    n_embd: int, n_layer: int, output: BlockOutput, *, on_host: bool, in_graph: bool
) -> HookState:
    """Return a struct that knows ggml's functions and the model, and no arrays yet."""
    functions = (
        "ggml_get_name", "ggml_nelements", "ggml_nbytes", "ggml_get_data",
        "ggml_backend_tensor_get", "ggml_backend_tensor_set", "ggml_op_desc",
        "ggml_is_contiguous", "ggml_map_custom1_inplace", "ggml_map_custom2", "ggml_dup_tensor",
        "ggml_build_forward_expand", "ggml_graph_clear", "ggml_graph_n_nodes", "ggml_graph_node",
    )  # fmt: skip
    state = HookState(
        *map(ggml.address, functions), f"{output.tensor}-".encode(), n_embd, n_layer,
        output.n_streams, output.mean, on_host, _sources_at(), in_graph,
    )  # fmt: skip
    state.given_il = state.built_for = -1
    return state


@cache
def _sources_at() -> int:
    """Return at which byte of a tensor ggml keeps the two tensors it is the sum of; -1: nowhere.

    No function tells, and the layout changes between versions: so two are added and looked for.
    """
    new, size = ggml.function("ggml_new_tensor_1d"), ggml.call("ggml_tensor_overhead")
    memory = ggml.call("ggml_init", ggml.InitParams(8 * size, None, True))
    try:
        a, b = new(memory, ggml.F32, 1), new(memory, ggml.F32, 1)
        total = ggml.call("ggml_add", memory, a, b)
        return ctypes.string_at(total, size).find(struct.pack("2P", a, b))
    finally:
        ggml.call("ggml_free", memory)
