"""A program that multiplies on ggml's AMX kernels, and compares; `amx` runs it as a child process.

For each type of weights that the kernels take, y = W x is computed twice by ggml: with W where
every processor reads it, and with W in an AMX buffer. Shapes: W is N_OUT x N_IN, x is N_IN x rows.
Both round x to 8 bits before they multiply, so they agree but for the order of the sums.
"""

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
    plain = multiply(W, x, kind, ggml.call("ggml_backend_dev_buffer_type", cpu_device()))
    tried = multiply(W, x, kind, buffer_type)
    if plain is None or tried is None:
        return 0.0
    return float(np.linalg.norm(tried - plain) / np.linalg.norm(plain))


def multiply(W: Array, x: Array, kind: int, buffer_type: int) -> Array | None:
    """Return x W^T with W of a type in a kind of buffer; None where ggml does not compute that."""
    device = cpu_device()
    with _memory() as weights, _memory() as rest:
        w = ggml.call("ggml_new_tensor_2d", weights, kind, N_IN, N_OUT)
        h = ggml.call("ggml_new_tensor_2d", rest, ggml.F32, N_IN, len(x))
        y, graph = ggml.call("ggml_mul_mat", rest, w, h), ggml.call("ggml_new_graph", rest)
        ggml.call("ggml_build_forward_expand", graph, y)
        buffers = [ggml.call("ggml_backend_alloc_ctx_tensors_from_buft", weights, buffer_type)]
        if not ggml.call("ggml_backend_dev_supports_op", device, y):
            return None
        host = ggml.call("ggml_backend_dev_buffer_type", device)
        buffers.append(ggml.call("ggml_backend_alloc_ctx_tensors_from_buft", rest, host))
        source, packed = W.ctypes.data, np.zeros(W.nbytes, np.uint8)
        there = packed.ctypes.data
        size = ggml.call("ggml_quantize_chunk", kind, source, there, 0, N_OUT, N_IN, None)
        ggml.call("ggml_backend_tensor_set", w, there, 0, size)
        ggml.call("ggml_backend_tensor_set", h, x.ctypes.data, 0, x.nbytes)
        backend = ggml.call("ggml_backend_dev_init", device, None)
        ggml.call("ggml_backend_graph_compute", backend, graph)
        product = np.zeros((len(x), N_OUT), np.float32)
        ggml.call("ggml_backend_tensor_get", y, product.ctypes.data, 0, product.nbytes)
        for buffer in buffers:
            ggml.call("ggml_backend_buffer_free", buffer)
    return product


@contextmanager
def _memory() -> Iterator[int]:
    """Give memory for the description of a few tensors and a graph, not for their numbers."""
    size = 8 * ggml.call("ggml_tensor_overhead") + ggml.call("ggml_graph_overhead")
    memory = ggml.call("ggml_init", ggml.InitParams(size, None, True))
    try:
        yield memory
    finally:
        ggml.call("ggml_free", memory)


def _leave_no_core() -> None:
    with suppress(ImportError):  # Windows leaves none
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
