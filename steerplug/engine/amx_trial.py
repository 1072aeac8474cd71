"""A program that multiplies on ggml's AMX kernels, and compares; `amx` runs it as a child process.

For each type of weights that the kernels take, y = W x is computed twice by ggml: with W where
every processor reads it, and with W in an AMX buffer. Shapes: W is N_OUT x N_IN, x is N_IN x rows.
Both round x to 8 bits before they multiply, so they agree but for the order of the sums.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from steerplug.engine import ggml
from steerplug.engine.amx import DIFFERS, cpu_device, extra_buffer_types
from steerplug.engine.native import library

TYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ4_XS": 23}
N_IN, N_OUT = 512, 64
ROWS = (1, 40)
TOLERANCE = 0.02
"""Greatest |y - y'| / |y|."""

_F32 = 0
_Pointer, _Size, _Int, _Long = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64
_FUNCTIONS = {
    "init": (_Pointer, [ggml.Memory]),
    "free": (None, [_Pointer]),
    "tensor_overhead": (_Size, []),
    "graph_overhead": (_Size, []),
    "new_tensor_2d": (_Pointer, [_Pointer, _Int, _Long, _Long]),
    "mul_mat": (_Pointer, [_Pointer] * 3),
    "new_graph": (_Pointer, [_Pointer]),
    "build_forward_expand": (None, [_Pointer] * 2),
    "quantize_chunk": (_Size, [_Int, _Pointer, _Pointer, _Long, _Long, _Long, _Pointer]),
    "backend_dev_init": (_Pointer, [_Pointer, ctypes.c_char_p]),
    "backend_dev_supports_op": (ctypes.c_bool, [_Pointer] * 2),
    "backend_dev_buffer_type": (_Pointer, [_Pointer]),
    "backend_alloc_ctx_tensors_from_buft": (_Pointer, [_Pointer] * 2),
    "backend_buffer_free": (None, [_Pointer]),
    "backend_tensor_set": (None, [_Pointer, _Pointer, _Size, _Size]),
    "backend_tensor_get": (None, [_Pointer, _Pointer, _Size, _Size]),
    "backend_graph_compute": (_Int, [_Pointer] * 2),
}

Array = NDArray[np.float32]


def main() -> int:
    """Try all types; return 0 if the products agree, `DIFFERS` if they do not."""
    _leave_no_core()
    library().sp_allow_amx()
    types = [address for name, address in extra_buffer_types() if name == b"AMX"]
    for name, kind in TYPES.items():
        for n_rows in ROWS:
            for buffer_type in types:
                error = compare(kind, n_rows, buffer_type)
                if not error <= TOLERANCE:  # NaN is refused as well
                    print(f"{name}, {n_rows} rows: relative error {error:.1e}")
                    return DIFFERS
    return 0


def compare(kind: int, n_rows: int, buffer_type: int) -> float:
    """Return how far products with weights in this kind of buffer are from the plain ones."""
    rng = np.random.default_rng(kind)
    W = rng.standard_normal((N_OUT, N_IN), np.float32)
    x = rng.standard_normal((n_rows, N_IN), np.float32)
    plain = multiply(W, x, kind, _call("backend_dev_buffer_type", cpu_device()))
    tried = multiply(W, x, kind, buffer_type)
    if plain is None or tried is None:
        return 0.0
    return float(np.linalg.norm(tried - plain) / np.linalg.norm(plain))


def multiply(W: Array, x: Array, kind: int, buffer_type: int) -> Array | None:
    """Return x W^T with W of a type in a kind of buffer; None where ggml does not compute that."""
    device = cpu_device()
    with _memory() as weights, _memory() as rest:
        w = _call("new_tensor_2d", weights, kind, N_IN, N_OUT)
        h = _call("new_tensor_2d", rest, _F32, N_IN, len(x))
        y, graph = _call("mul_mat", rest, w, h), _call("new_graph", rest)
        _call("build_forward_expand", graph, y)
        buffers = [_call("backend_alloc_ctx_tensors_from_buft", weights, buffer_type)]
        if not _call("backend_dev_supports_op", device, y):
            return None
        host = _call("backend_dev_buffer_type", device)
        buffers.append(_call("backend_alloc_ctx_tensors_from_buft", rest, host))
        packed, source = np.zeros(W.nbytes, np.uint8), W.ctypes.data
        size = _call("quantize_chunk", kind, source, packed.ctypes.data, 0, N_OUT, N_IN, None)
        _call("backend_tensor_set", w, packed.ctypes.data, 0, size)
        _call("backend_tensor_set", h, x.ctypes.data, 0, x.nbytes)
        _call("backend_graph_compute", _call("backend_dev_init", device, None), graph)
        product = np.zeros((len(x), N_OUT), np.float32)
        _call("backend_tensor_get", y, product.ctypes.data, 0, product.nbytes)
        for buffer in buffers:
            _call("backend_buffer_free", buffer)
    return product


@contextmanager
def _memory() -> Iterator[int]:
    """Give memory for the description of a few tensors and a graph, not for their numbers."""
    size = 8 * _call("tensor_overhead") + _call("graph_overhead")
    memory = _call("init", ggml.Memory(size, None, True))
    try:
        yield memory
    finally:
        _call("free", memory)


def _call(name: str, *arguments: object) -> int:
    function = ggml.function(f"ggml_{name}")
    function.restype, function.argtypes = _FUNCTIONS[name]
    result: int = function(*arguments)
    return result


def _leave_no_core() -> None:
    with suppress(ImportError):  # Windows leaves none
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
