"""LoRA: a matrix of low rank beside every linear part of every block.

    y = W x + (alpha / r) B A x        A (r, n_in), B (n_out, r), alpha = r

A is uniform within +-1 / sqrt(n_in) and B zero at the start. All linear parts get one, as Dettmers
et al. (QLoRA, arXiv 2305.14314) found best. Its file is a GGUF adapter in float16, for `--lora`.
Source: Hu et al., arXiv 2106.09685.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import torch

from steerplug.fit.distill.student import Batch, Changes, Student
from steerplug.fit.distill.trained import Trained
from steerplug.steering.value import Array


class Lora(Trained):
    """Adapters of some matrices.

    Args:
        matrices: (n_out, n_in) by the names of their tensors.
        rank: r.
        seed: of the start.
    """

    def __init__(self, matrices: Mapping[str, tuple[int, int]], rank: int, seed: int) -> None:
        super().__init__()
        self._names, self.rank, self._seed = list(matrices), rank, seed
        random, shapes = torch.Generator().manual_seed(seed), matrices.values()
        self.A = torch.nn.ParameterList(
            torch.empty(rank, n_in).uniform_(-1, 1, generator=random) / math.sqrt(n_in)
            for _, n_in in shapes
        )
        self.B = torch.nn.ParameterList(torch.zeros(n_out, rank) for n_out, _ in shapes)

    def read(self, student: Student, batch: Batch) -> torch.Tensor:
        """Return the hidden states of the rows of a batch of whole bare chats."""
        beside = {
            name: partial(_added, A, B)
            for name, A, B in zip(self._names, self.A, self.B, strict=True)
        }
        return student.hidden(batch, lambda _: Changes(beside=beside))

    @property
    def of(self) -> tuple[Any, ...]:
        """What is adapted, and the start."""
        return "LoRA", self._names, self.rank, self._seed

    def write(self, path: Path, architecture: str) -> None:
        """Write the adapter for llama.cpp."""
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(self.rank))
        for name, A, B in zip(self._names, self.A, self.B, strict=True):
            writer.add_tensor(f"{name}.lora_a", _array(A))
            writer.add_tensor(f"{name}.lora_b", _array(B))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _added(A: torch.Tensor, B: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x @ A.to(x.dtype).T) @ B.to(x.dtype).T


def _array(parameter: torch.Tensor) -> Array:
    array: Array = parameter.detach().cpu().numpy().astype("float16")
    return array
