"""A soft prompt: n embeddings that no token has, read in the place of tokens.

    E = E0 + 0.1 rms(E0) theta        E, E0, theta (n, n_embd); theta = 0 at the start

E0 are the embeddings of the prompted chat's own tokens, the n after its first. Its file holds E in
float32. Source: prompt tuning, Lester et al., arXiv 2104.08691; by KL, as compositional steering
tokens, arXiv 2601.05062, are.
"""

from collections.abc import Sequence
from typing import Any

import torch

from steerplug.benchmark.rivals.prefixed import UNIT, size
from steerplug.fit.distill.student import Batch, Changes, Passage, Prefix, Student
from steerplug.fit.distill.trained import Trained
from steerplug.steering.value import Array


class SoftPrompt(Trained):
    """n embeddings.

    Args:
        student: the torch copy.
        tokens: of the prompted chat, of which the first stays and the n after it are the start.
    """

    def __init__(self, student: Student, tokens: Sequence[int]) -> None:
        super().__init__()
        self._start = _embeddings(student, tokens)[1:]
        self._tokens, self._unit = tuple(tokens), UNIT * size(self._start)
        self.theta = torch.nn.Parameter(torch.zeros_like(self._start, dtype=torch.float32))

    def embeddings(self) -> torch.Tensor:
        """Return E."""
        return self._start.float() + self._unit * self.theta

    def read(self, student: Student, batch: Batch) -> torch.Tensor:
        """Return the hidden states of the rows of a batch of whole bare chats."""
        held, n = self._tokens[1:], len(self._start)  # tokens that hold the places
        whole = [
            Passage(x.prefix, (x.tokens[0], *held, *x.tokens[1:]), x.first + n) for x in batch
        ]
        return student.hidden(whole, lambda some: Changes({student.embeddings: self._put(some)}))

    def _put(self, batch: Batch) -> Any:
        """Return what puts E in the place of the tokens behind the first of each chat."""
        n, places, begin = len(self._start), list[int](), 0
        for passage in batch:
            places += range(begin + 1, begin + 1 + n)
            begin += len(passage.tokens)

        def put(read: torch.Tensor) -> torch.Tensor:
            E = self.embeddings().to(read.dtype).repeat(len(batch), 1)
            return read.index_copy(2, torch.tensor(places, device=read.device), E[None, None])

        return put

    @property
    def of(self) -> tuple[Any, ...]:
        """The start."""
        return "soft prompt", self._tokens, UNIT

    def export(self) -> Array:
        """Return E as it is decoded, (n, n_embd)."""
        exported: Array = self.embeddings().detach().cpu().numpy()
        return exported


def _embeddings(student: Student, tokens: Sequence[int]) -> torch.Tensor:
    """Return what the first block reads of some tokens, (n, n_embd)."""
    read: list[torch.Tensor] = []
    passage = Passage(Prefix(), tuple(tokens), len(tokens) - 1)
    with torch.no_grad():
        student.hidden([passage], lambda _: Changes({student.embeddings: read.append}))
    return read[0][0, 0]
