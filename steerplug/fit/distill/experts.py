"""Matrices of experts that stay packed: of each one, only what a token asks for is dequantised.

A parameter holds those of all experts, (n_experts, n_out, n_in), and gives one by its number.
Its rows are those of one tensor of the file, or of gate and up, one after the other.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from steerplug.fit.distill.packed import Packed, Weight


class PackedExperts(Weight):
    """A frozen parameter of a module, for all experts.

    Args:
        experts: the matrices of each expert, one below the other.
    """

    def __init__(self, experts: Sequence[Sequence[Packed]]) -> None:
        self._experts = [Joined(parts) for parts in experts]
        self.shape = torch.Size((len(experts), *self._experts[0].shape))
        self.dtype = torch.float32

    def __getitem__(self, number: Any) -> "Joined":
        expert = self._experts[int(number)]
        expert.dtype = self.dtype
        return expert

    def dense(self) -> torch.Tensor:
        """Return all of it, (n_experts, n_out, n_in), in memory of its own."""
        return torch.stack([self[i].dense() for i in range(len(self._experts))])


class Joined(Packed):
    """Packed matrices of as many columns, one below the other, as one.

    Args:
        parts: the matrices.
    """

    def __init__(self, parts: Sequence[Packed]) -> None:
        self._parts = parts
        self.shape = torch.Size((sum(part.shape[0] for part in parts), parts[0].shape[1]))
        self.dtype = torch.float32

    def pieces(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield some rows after others, dequantised; each piece takes the place of the last."""
        begin = 0
        for part in self._parts:
            part.dtype = self.dtype
            for rows, piece in part.pieces():
                yield slice(begin + rows.start, begin + rows.stop), piece
            begin += part.shape[0]
