"""The GGUF's tensors in torch: matrices packed as they are in the file, all others dequantised.

A tensor is read when it is first asked for, by llama.cpp's name for it. Its shape is the graph's:
(n3, n2, n1, n0), but for packed matrices, which are (n_out, n_in).
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import gguf
import numpy as np
import torch

from steerplug.engine.dequantise import dequantiser
from steerplug.engine.free_memory import available
from steerplug.engine.model import Model
from steerplug.errors import TorchCopyError
from steerplug.fit.distill import packed
from steerplug.fit.distill.gguf_reading import TensorReader
from steerplug.fit.distill.packed import Packed, PackedExperts, Workspace
from steerplug.fit.distill.readable import CURE, check_room

Weight: TypeAlias = torch.Tensor | Packed | PackedExperts


class Weights:
    """The tensors of a model, frozen.

    Args:
        model: the GGUF, loaded in llama.cpp.
        device: where they are multiplied; packed ones only on a processor.

    Raises:
        TorchCopyError: the file cannot be read, or does not fit the device.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        if device.type != "cpu":
            check_room(model, free_bytes(device))
        self.device, self.dtype = device, torch.float32
        self._workspace = Workspace(torch.get_num_threads())
        self._read: dict[str, Weight] = {}
        try:
            readers = [TensorReader(str(path)) for path in model.files]
        except Exception as error:  # of a library that raises whatever the file leads it to
            raise TorchCopyError(
                f"the tensors of {model.path.name} cannot be read ({error}); {CURE}."
            ) from None
        self._tensors = {str(each.name): each for reader in readers for each in reader.tensors}

    def matrix(self, name: str) -> Weight:
        """Return a tensor that multiplies rows, or whose rows are looked up: packed if it can be.

        That of several experts is packed one by one.
        """
        if name not in self._read:
            self._read[name] = self._packed(self._tensors[name]) or self._dense(name)
        weight = self._read[name]
        if not isinstance(weight, torch.Tensor):
            weight.dtype = self.dtype
        return weight

    def values(self, name: str) -> torch.Tensor:
        """Return a tensor dequantised."""
        weight = self._read.get(name)
        if not isinstance(weight, torch.Tensor):
            weight = self._read[name] = self._dense(name)
        return weight

    def to(self, dtype: torch.dtype, room: float, matrices: Sequence[str] = ()) -> None:
        """Multiply in another type from now on, dequantised for good as far as there is room.

        Args:
            dtype: float32 or bfloat16.
            room: bytes.
            matrices: the tensors that are to have it, in this order.
        """
        self.dtype = dtype
        for name, weight in self._read.items():
            if isinstance(weight, torch.Tensor):
                self._read[name] = weight.to(dtype)
            else:
                weight.dtype = dtype
        for name in matrices:
            weight = self.matrix(name)
            if isinstance(weight, Packed) and weight.n_bytes <= room:
                room -= weight.n_bytes
                self._read[name] = weight.dense()[None, None]

    @property
    def n_bytes(self) -> int:
        """How much memory those take that are not packed."""
        return sum(each.nbytes for each in self._read.values() if isinstance(each, torch.Tensor))

    def _dense(self, name: str) -> torch.Tensor:
        tensor = self._tensors[name]
        values = torch.from_numpy(
            np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
        )
        values = values.view([1] * (4 - values.ndim) + list(values.shape))
        return values.to(self.device, self.dtype)

    def _packed(self, tensor: Any) -> Packed | PackedExperts | None:
        """Return a matrix, or those of experts, as they lie in the file, if that can be."""
        shape, kind = tensor.shape.tolist()[::-1], tensor.tensor_type.name
        can_be = shape[-1] <= packed.STEP and (kind == "F32" or dequantiser(kind))
        if self.device.type != "cpu" or not can_be or not 2 <= len(shape) <= 3:
            return None
        rows = tensor.data.view(np.uint8)

        def matrix(some: Any) -> Packed:
            made = Packed(some, kind, shape[-1], self._workspace)
            made.dtype = self.dtype
            return made

        return matrix(rows) if len(shape) == 2 else PackedExperts([*map(matrix, rows)])


def device_here() -> torch.device:
    """Return where torch computes: on a GPU, if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free where a device computes; 0 where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available() or 0  # a Mac's GPU shares it


def fastest_type(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies in it, else float32.

    Nothing is timed, so that a machine always trains in the same type.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "mps" or not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
        return torch.float32
    able = {name for name, has in torch.cpu.get_capabilities().items() if has is True}
    return torch.bfloat16 if any("bf16" in name for name in able) else torch.float32
