"""A trained K/V prefix: n cells of the cache, given to every block as they are.

    K_il = K0_il + 0.1 rms(K0_il) theta_il        K, V (n_heads, n, n_head_embd), keys turned
    V_il likewise                                 theta = 0 at the start

K0 and V0 are the cells of the prompted chat behind its first token. Its file is a state of
llama.cpp, in float16. Source: prefix tuning, Li and Liang, arXiv 2101.00190; trained as cells and
started from a text, Cartridges, arXiv 2506.06266.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from steerplug.benchmark.rivals.prefixed import UNIT, Prefixed, size
from steerplug.fit.distill.linear import Part
from steerplug.fit.distill.student import Prefix, Student
from steerplug.steering.value import Array


class KvPrefix(Prefixed):
    """n cells.

    Args:
        student: the torch copy.
        tokens: of the prompted chat, of which the first stays and the n after it are the start.
    """

    def __init__(self, student: Student, tokens: Sequence[int]) -> None:
        super().__init__()
        (start,) = student.prefixes([tokens])
        self._tokens, self._n_blocks = tuple(tokens), len(start.keys)
        self._start = [*start.keys, *start.values]
        self._units = [UNIT * size(cells[:, 1:]) for cells in self._start]
        self.theta = torch.nn.ParameterList(
            torch.zeros_like(cells[:, 1:], dtype=torch.float32) for cells in self._start
        )

    def _cells(self) -> list[torch.Tensor]:
        """Return keys, then values of all blocks, (n_heads, 1 + n, n_head_embd)."""
        return [
            torch.cat([cells[:, :1], (cells[:, 1:] + unit * theta).to(cells.dtype)], 1)
            for cells, unit, theta in zip(self._start, self._units, self.theta, strict=True)
        ]

    def prefix(self, _student: Student, /) -> Prefix:
        """Return the cells themselves."""
        cells = self._cells()
        return Prefix(tuple(cells[: self._n_blocks]), tuple(cells[self._n_blocks :]))

    @property
    def of(self) -> tuple[Any, ...]:
        """The start."""
        return "K/V prefix", self._tokens, UNIT

    def export(self, parts: Mapping[str, Part]) -> list[tuple[Array, Array]]:
        """Return keys and values of each block as llama.cpp has them.

        They are (n, n_heads * n_head_embd) in float32.

        Args:
            parts: the model's linear parts: of keys and values the order of rows is theirs.
        """
        names = [f"blk.{il}.attn_{side}.weight" for side in "kv" for il in range(self._n_blocks)]
        rows = [
            _rows(cells[:, 1:], parts.get(name))
            for name, cells in zip(names, self._cells(), strict=True)
        ]
        return list(zip(rows[: self._n_blocks], rows[self._n_blocks :], strict=True))


def _rows(cells: torch.Tensor, part: Part | None) -> Array:
    rows: Array = cells.detach().float().transpose(0, 1).flatten(1).cpu().numpy()
    if part is None:  # one tensor of queries, keys and values, whose heads keep their order
        return rows
    in_file = np.empty_like(rows)
    in_file[:, part.order] = rows
    return in_file
