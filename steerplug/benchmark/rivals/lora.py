"""LoRA: a matrix of low rank beside every linear part of every block.

    y = W x + (alpha / r) B A x        A (r, n_in), B (n_out, r), alpha = r

A is uniform within +-1 / sqrt(n_in) and B zero at the start. All linear parts get one, as Dettmers
et al. (QLoRA, arXiv 2305.14314) found best. Its file is a GGUF adapter in float16, for `--lora`.
Source: Hu et al., arXiv 2106.09685.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from steerplug.fit.distill.linear import Part
from steerplug.fit.distill.student import Passage, Student
from steerplug.fit.distill.trained import Trained
from steerplug.steering.value import Array


class Lora(Trained):
    """Adapters of some linear parts.

    Args:
        parts: by the names of their tensors in the GGUF.
        rank: r.
        seed: of the start.
    """

    def __init__(self, parts: Mapping[str, Part], rank: int, seed: int) -> None:
        super().__init__()
        self._parts, self.rank, self._seed = parts, rank, seed
        random = torch.Generator().manual_seed(seed)
        modules = [part.module for part in parts.values()]
        self.A = torch.nn.ParameterList(
            torch.empty(rank, module.in_features).uniform_(-1, 1, generator=random)
            / math.sqrt(module.in_features)
            for module in modules
        )
        self.B = torch.nn.ParameterList(torch.zeros(m.out_features, rank) for m in modules)

    def read(self, student: Student, batch: Sequence[Passage]) -> torch.Tensor:
        """Return the hidden states of the rows of a batch of whole bare chats."""
        with self._adapted():
            return student.hidden(batch)

    @contextlib.contextmanager
    def _adapted(self) -> Iterator[None]:
        with contextlib.ExitStack() as hooks:
            for part, A, B in zip(self._parts.values(), self.A, self.B, strict=True):
                hooks.callback(part.module.register_forward_hook(_adding(A, B)).remove)
            yield

    @property
    def of(self) -> tuple[Any, ...]:
        """What is adapted, and the start."""
        return "LoRA", list(self._parts), self.rank, self._seed

    def write(self, path: Path, architecture: str) -> None:
        """Write the adapter for llama.cpp; rows of B are in the file's order."""
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(self.rank))
        for (name, part), A, B in zip(self._parts.items(), self.A, self.B, strict=True):
            in_file = np.empty_like(_array(B))
            in_file[part.order] = _array(B)
            writer.add_tensor(f"{name}.lora_a", _array(A))
            writer.add_tensor(f"{name}.lora_b", in_file)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _adding(A: torch.Tensor, B: torch.Tensor) -> Any:
    def add(_module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        (x,) = inputs
        return output + (x @ A.to(x.dtype).T) @ B.to(x.dtype).T

    return add


def _array(parameter: torch.Tensor) -> Array:
    array: Array = parameter.detach().cpu().numpy().astype(np.float16)
    return array
