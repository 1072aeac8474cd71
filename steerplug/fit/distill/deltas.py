"""What gradients train: a delta for each steered block, small and started near nothing.

    psr      delta(h) = s * Z^T . ReLU(W . rms(h) + b)
    const    delta(h) = s * z

Shapes: h, z (n_embd,); W, Z (k, n_embd); b (k,). s is a tenth of the block's own size, the median
over bare rows of sqrt(mean(h^2)): with it, one learning rate suits all blocks and all models.
Start: W uniform within +-0.1 / sqrt(n_embd) and b = 0.5, so every gate is open and reads little; Z
normal with deviation 0.01; z = 0.
Source: PSR, arXiv 2605.03907; start and rates were measured.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from steerplug.fit.distill.student import Batch, Student
from steerplug.fit.distill.trained import Trained
from steerplug.steering.value import Array, Delta

UNITS = 4
"""k: gates per block."""


class Deltas(Trained):
    """The trained parameters; row i of each belongs to the i-th steered block.

    Args:
        sizes: steered block -> its own size.
        n_embd: width of the activations.
        gated: gates; else constants.
        seed: of the start.
    """

    def __init__(self, sizes: Mapping[int, float], n_embd: int, *, gated: bool, seed: int) -> None:
        super().__init__()
        self.place = {il: i for i, il in enumerate(sizes)}
        self.sizes, self.gated = tuple(size / 10 for size in sizes.values()), gated
        self.decays = gated
        n = len(self.sizes)
        if gated:
            random = torch.Generator().manual_seed(seed)
            spread = 0.1 / math.sqrt(n_embd)
            W = torch.empty(n, UNITS, n_embd).uniform_(-spread, spread, generator=random)
            Z = torch.empty(n, UNITS, n_embd).normal_(0, 0.01, generator=random)
            self.W, self.Z = torch.nn.Parameter(W), torch.nn.Parameter(Z)
            self.b = torch.nn.Parameter(torch.full((n, UNITS), 0.5))
        else:
            self.z = torch.nn.Parameter(torch.zeros(n, n_embd))

    def forward(self, il: int, h: torch.Tensor) -> torch.Tensor:
        """Return what is added to h, (..., n_embd), at a steered block; in the type of h."""
        i = self.place[il]
        if not self.gated:
            return (self.sizes[i] * self.z[i]).to(h.dtype)
        x = torch.nn.functional.rms_norm(h.float(), h.shape[-1:])
        gates = torch.relu(torch.nn.functional.linear(x, self.W[i], self.b[i]))
        return (self.sizes[i] * (gates @ self.Z[i])).to(h.dtype)

    def read(self, student: Student, batch: Batch) -> torch.Tensor:
        """Return the hidden states of the rows of a batch, steered."""
        return student.hidden(batch, lambda _: student.at_blocks(self, list(self.place)))

    @property
    def of(self) -> tuple[Any, ...]:
        """Which blocks, of what size, and by what."""
        return self.sizes, list(self.place), self.gated

    def export(self) -> dict[int, Delta]:
        """Return the same as steering: block -> delta."""
        return {il: self._delta(i) for il, i in self.place.items()}

    def _delta(self, i: int) -> Delta:
        size = np.float32(self.sizes[i])
        if not self.gated:
            return Delta.constant(size * _array(self.z[i]))
        return Delta.gated(_array(self.W[i]), _array(self.b[i]), size * _array(self.Z[i]))


def _array(parameter: torch.Tensor) -> Array:
    return np.array(parameter.detach().cpu().numpy(), np.float32)
