"""Tensors of float32 on a device of ggml, which outlive the graphs that read and write them."""

import ctypes
from collections.abc import Sequence
from functools import cache

import numpy as np

from steerplug.engine import ggml
from steerplug.errors import EngineError
from steerplug.steering.value import Array

_OF_WEIGHTS = 1


class DeviceFullError(EngineError):
    """A device has no memory left for what it was to hold."""


class DeviceMemory:
    """Tensors in one buffer of a device.

    Args:
        buffer_type: which kind of buffer, as ggml's address of it.
        shapes: of each tensor, in ggml's order: what lies side by side comes first.
        weights: whether operations are to run where these tensors lie.

    Raises:
        DeviceFullError: the device has no memory for them.
    """

    def __init__(
        self, buffer_type: int, shapes: Sequence[tuple[int, ...]], *, weights: bool = True
    ) -> None:
        size = (len(shapes) + 1) * ggml.call("ggml_tensor_overhead")
        self._context = ggml.call("ggml_init", ggml.InitParams(size, None, True))
        new = ggml.function("ggml_new_tensor")
        self.tensors: list[int] = [
            new(self._context, ggml.F32, len(shape), (ctypes.c_int64 * len(shape))(*shape))
            for shape in shapes
        ]
        allocate = ggml.function("ggml_backend_alloc_ctx_tensors_from_buft")
        self.buffer = allocate(self._context, buffer_type)
        if not self.buffer:
            self.free()
            n_bytes = 4 * sum(map(int, map(np.prod, shapes)))
            raise DeviceFullError(
                f"the device has no memory for {n_bytes / 1e6:.0f} MB of steering; give it less of "
                "the model (n_gpu_layers), or a smaller n_ctx."
            )
        if weights:
            ggml.call("ggml_backend_buffer_set_usage", self.buffer, _OF_WEIGHTS)

    def write(self, place: int, values: Array) -> None:
        """Write a whole tensor."""
        values = np.ascontiguousarray(values, np.float32)
        ggml.function("ggml_backend_tensor_set")(
            self.tensors[place], values.ctypes.data, 0, values.nbytes
        )

    def free(self) -> None:
        """Give the memory back; graphs that use it must not be computed again."""
        if self.buffer:
            ggml.call("ggml_backend_buffer_free", self.buffer)
        if self._context:
            ggml.call("ggml_free", self._context)
        self.buffer = self._context = None


@cache
def alignment(buffer_type: int) -> int:
    """Return how many float32 apart tensors may begin in a buffer."""
    n_bytes = ggml.call("ggml_backend_buft_get_alignment", buffer_type)
    return int(-(-n_bytes // 4))
