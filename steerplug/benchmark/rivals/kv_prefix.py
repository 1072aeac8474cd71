"""A trained K/V prefix: n cells of the cache, given to every block as they are.

    K_il = K0_il + 0.1 rms(K0_il) theta_il        K, V (n, n_values), keys turned
    V_il likewise                                 theta = 0 at the start

K0 and V0 are the cells of the prompted chat behind its first token. Its file is a state of
llama.cpp, in float16. Source: prefix tuning, Li and Liang, arXiv 2101.00190; trained as cells and
started from a text, Cartridges, arXiv 2506.06266.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from steerplug.benchmark.rivals.prefixed import UNIT, size
from steerplug.errors import TorchCopyError
from steerplug.fit.distill.student import Batch, Changes, Passage, Student
from steerplug.fit.distill.trained import Trained
from steerplug.steering.value import Array


class KvPrefix(Trained):
    """n cells.

    Args:
        student: the torch copy.
        tokens: of the prompted chat, of which the first stays and the n after it are the start.

    Raises:
        TorchCopyError: llama.cpp keeps its cells in another way than one after the other.
    """

    def __init__(self, student: Student, tokens: Sequence[int]) -> None:
        super().__init__()
        (self._prefix,) = student.prefixes([tokens])
        self._tokens, self._names = tuple(tokens), list(student.cells)
        if len(self._names) != 2 * student.model.n_layer:
            raise TorchCopyError(
                f"{student.model.name} does not keep keys and values of each block, so it cannot "
                "have a trained K/V prefix."
            )
        start = self._read_start(student)
        self._start = [start[name] for name in self._names]
        self._units = [UNIT * size(cells) for cells in self._start]
        self.theta = torch.nn.ParameterList(
            torch.zeros_like(cells, dtype=torch.float32) for cells in self._start
        )

    def _read_start(self, student: Student) -> Mapping[str, torch.Tensor]:
        """Return what is in the cells behind the first, (n, n_values)."""
        start: dict[str, torch.Tensor] = {}

        def watch(name: str, held: torch.Tensor) -> None:
            start[name] = _cells(held, is_transposed=student.cells[name])[1 : self._prefix.n_tokens]

        passage = Passage(self._prefix, self._tokens[:1], 0)
        watched = Changes({name: partial(watch, name) for name in self._names})
        with torch.no_grad():
            student.hidden([passage], lambda _: watched)
        return start

    def _cells(self) -> list[torch.Tensor]:
        """Return keys and values of all blocks, as their names are."""
        return [
            (cells + unit * theta).to(cells.dtype)
            for cells, unit, theta in zip(self._start, self._units, self.theta, strict=True)
        ]

    def read(self, student: Student, batch: Batch) -> torch.Tensor:
        """Return the hidden states of the rows of a batch of whole bare chats."""

        def put(name: str, trained: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
            cells = _cells(held, is_transposed=student.cells[name])
            cells = torch.cat([cells[:1], trained, cells[1 + len(trained) :]])
            return (cells.T if student.cells[name] else cells).reshape(held.shape)

        every = zip(self._names, self._cells(), strict=True)
        changes = Changes({name: partial(put, name, cells) for name, cells in every})
        behind = [Passage(self._prefix, x.tokens[1:], x.first - 1) for x in batch]
        return student.hidden(behind, lambda _: changes)

    @property
    def of(self) -> tuple[Any, ...]:
        """The start."""
        return "K/V prefix", self._tokens, UNIT

    def export(self) -> list[tuple[Array, Array]]:
        """Return keys and values of each block, (n, n_values) in float32."""
        rows = [cells.detach().float().cpu().numpy() for cells in self._cells()]
        return list(zip(rows[::2], rows[1::2], strict=True))


def _cells(held: torch.Tensor, *, is_transposed: bool) -> torch.Tensor:
    """Return cells as they are read, (n_cells, n_values), of how they lie."""
    n_cells, n_values = held.shape[2:]
    return held.reshape(n_values, n_cells).T if is_transposed else held[0, 0]
