"""A soft prompt: n embeddings that no token has, read in the place of tokens.

    E = E0 + 0.1 rms(E0) theta        E, E0, theta (n, n_embd); theta = 0 at the start

E0 are the embeddings of the prompted chat's own tokens, the n after its first. Its file holds E in
float32. Source: prompt tuning, Lester et al., arXiv 2104.08691; by KL, as compositional steering
tokens, arXiv 2601.05062, are.
"""

from collections.abc import Sequence
from typing import Any

import torch

from steerplug.benchmark.rivals.prefixed import UNIT, Prefixed, size
from steerplug.fit.distill.student import Prefix, Student
from steerplug.steering.value import Array


class SoftPrompt(Prefixed):
    """n embeddings.

    Args:
        student: the torch copy.
        tokens: of the prompted chat, of which the first stays and the n after it are the start.
    """

    def __init__(self, student: Student, tokens: Sequence[int]) -> None:
        super().__init__()
        (self._first,) = student.prefixes([tokens[:1]])
        some = torch.tensor(tokens[1:], device=student.device)
        self._start = student.module.get_input_embeddings()(some).detach()
        self._tokens, self._unit = tuple(tokens), UNIT * size(self._start)
        self.theta = torch.nn.Parameter(torch.zeros_like(self._start, dtype=torch.float32))

    def embeddings(self) -> torch.Tensor:
        """Return E."""
        return self._start.float() + self._unit * self.theta

    def prefix(self, student: Student, /) -> Prefix:
        """Return the cells that the model makes of the embeddings."""
        return student.read_on(self.embeddings().to(self._start.dtype), self._first)

    @property
    def of(self) -> tuple[Any, ...]:
        """The start."""
        return "soft prompt", self._tokens, UNIT

    def export(self) -> Array:
        """Return E as it is decoded, (n, n_embd)."""
        exported: Array = self.embeddings().detach().cpu().numpy()
        return exported
