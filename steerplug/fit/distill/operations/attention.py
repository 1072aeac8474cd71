"""Attention: p = softmax(scale q k^T + slope mask), y = p v.

    q (n3, n_head, n_rows, n), k (n3, n_head_kv, n_cells, n), v (n3, n_head_kv, n_cells, n_v),
    mask (1, 1, n_rows or more, n_cells), y (n3, n_rows, n_head, n_v)

Rows of several sequences stand one after the other, and see no cells of each other's: what shares
no cell is computed by itself.

The slope of a head is 1, or falls from head to head (ALiBi, arXiv 2108.12409). A sink is one more
score of each head, to which nothing belongs. Scores may be capped: c tanh(s / c).
"""

import math
from collections.abc import Callable, Mapping, MutableMapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor as Values
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from steerplug.engine.graph import Tensor
from steerplug.fit.distill.operations.products import by_head


def _soft_max(
    t: Tensor, x: Values, mask: Values | None = None, sinks: Values | None = None
) -> Values:
    return _weights(x * t.number(0), mask, t.number(1), sinks)


def _attention(
    t: Tensor,
    q: Values,
    k: Values,
    v: Values,
    mask: Values | None = None,
    sinks: Values | None = None,
) -> Values:
    k, v, q = k.to(q.dtype), v.to(q.dtype), q * t.number(0)
    if mask is None or mask.shape[:2] != (1, 1):
        return _attended(t, q, k, v, mask, sinks).transpose(1, 2)
    parts = _parts(mask, q.shape[2])
    every = zip(
        q.split(parts.n_rows, 2),
        k.index_select(2, parts.cells).split(parts.n_cells, 2),
        v.index_select(2, parts.cells).split(parts.n_cells, 2),
        parts.masks,
        strict=True,
    )
    return torch.cat([_attended(t, *part, sinks) for part in every], 2).transpose(1, 2)


class _Parts(NamedTuple):
    """Rows that follow one another and see common cells.

    Args:
        n_rows: of each part.
        cells: that each part sees, part after part.
        n_cells: how many those are.
        masks: of each part, (1, 1, n_rows, n_cells).
    """

    n_rows: list[int]
    cells: Values
    n_cells: list[int]
    masks: list[Values]


_known: MutableMapping[Values, _Parts] = WeakIdKeyDictionary()
"""Parts by their mask, which all blocks of a kind share."""


def _parts(mask: Values, n_rows: int) -> _Parts:
    if mask not in _known:
        own = mask[0, 0, :n_rows]
        sees = own.isfinite().cpu().numpy()
        begins = np.flatnonzero(~(sees[1:] & sees[:-1]).any(1)) + 1
        n_each = np.diff([0, *begins, n_rows]).tolist()
        cells = [torch.from_numpy(np.flatnonzero(some.any(0))) for some in np.split(sees, begins)]
        cells = [each.to(mask.device) for each in cells]
        masks = [
            rows[:, some][None, None]
            for rows, some in zip(own.split(n_each), cells, strict=True)
        ]
        _known[mask] = _Parts(n_each, torch.cat(cells), [*map(len, cells)], masks)
    return _known[mask]


def _attended(
    t: Tensor, q: Values, k: Values, v: Values, mask: Values | None, sinks: Values | None
) -> Values:
    """Return y by head, (n3, n_head, n_rows, n_v)."""
    max_bias, cap = t.number(1), t.number(2)
    scores = by_head(q, k.transpose(-1, -2))
    if cap:
        scores = cap * torch.tanh(scores / cap)
    return by_head(_weights(scores, mask, max_bias, sinks), v)


def _weights(
    scores: Values, mask: Values | None, max_bias: float, sinks: Values | None
) -> Values:
    if mask is not None:
        own = mask[:, :, : scores.shape[2]].to(scores.dtype)
        scores = scores + (own * _slopes(scores, max_bias) if max_bias > 0 else own)
    if sinks is None:
        return functional.softmax(scores, -1, dtype=torch.float32).to(scores.dtype)
    last = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    both = torch.cat([scores, last.to(scores.dtype)], -1)
    return functional.softmax(both, -1, dtype=torch.float32)[..., :-1].to(scores.dtype)


def _slopes(scores: Values, max_bias: float) -> Values:
    n_head = scores.shape[1]
    n = 2 ** math.floor(math.log2(n_head))
    first, between = 2 ** (-max_bias / n), 2 ** (-max_bias / 2 / n)
    slopes = [
        first ** (h + 1) if h < n else between ** (2 * (h - n) + 1) for h in range(n_head)
    ]
    return torch.tensor(slopes, dtype=scores.dtype, device=scores.device)[:, None, None]


OPERATIONS: Mapping[str, Callable[..., Values]] = {
    "SOFT_MAX": _soft_max,
    "FLASH_ATTN_EXT": _attention,
}
