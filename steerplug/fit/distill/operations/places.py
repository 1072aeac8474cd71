"""Where values lie: rows looked up and written, tensors joined, repeated, padded and sorted."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor as Values
from torch.nn import functional

from steerplug.engine.graph import Tensor
from steerplug.fit.distill.packed import Packed


def _get_rows(t: Tensor, a: Values | Packed, numbers: Values) -> Values:
    """Return rows of a, (n3, n2, n_rows, n0), by their numbers, (1, n3, n2, n)."""
    ids = numbers[0].long()
    if isinstance(a, Packed):
        return a.looked_up(ids).view(t.shape)
    if a.shape[:2] == (1, 1):
        return a[0, 0][ids]
    at = ids[..., None].expand(*ids.shape, a.shape[-1])
    return a.expand(*ids.shape[:2], *a.shape[2:]).gather(2, at)


def _set_rows(_: Tensor, rows: Values, numbers: Values, into: Values) -> Values:
    """Return `into` with rows in the place of those of some numbers, (1, n3, n2, n)."""
    ids, rows = numbers[0].long(), rows.to(into.dtype)
    if ids.shape[:2] == (1, 1):
        return into.index_copy(2, ids[0, 0], rows)
    at = ids[..., None].expand(*into.shape[:2], ids.shape[-1], into.shape[-1])
    return into.scatter(2, at, rows)


def _copied(t: Tensor, x: Values, _into: Values | None = None) -> Values:
    """Return x in another shape, and in the type of where it goes: a copy, or a cast."""
    copied = x.reshape(t.shape)
    if t.is_integer == (not copied.is_floating_point()):
        return copied
    return copied.int() if t.is_integer else copied.float()


def _top_k(t: Tensor, x: Values) -> Values:
    return x.float().topk(t.shape[-1], -1).indices


def _argsort(t: Tensor, x: Values) -> Values:
    return x.float().sort(dim=-1, descending=bool(t.integer(0)), stable=True).indices


OPERATIONS: Mapping[str, Callable[..., Values]] = {
    "CONT": lambda t, x: x.reshape(t.shape),
    "CPY": _copied,
    "REPEAT": lambda t, x: x.repeat([n // m for n, m in zip(t.shape, x.shape, strict=True)]),
    "CONCAT": lambda t, a, b: torch.cat([a, b], 3 - t.integer(0)),
    "PAD": lambda t, x: functional.pad(x, [t.integer(i) for i in range(8)]),
    "FILL": lambda t, x: torch.full_like(x, t.number(0)),
    "ARGSORT": _argsort,
    "TOP_K": _top_k,
    "GET_ROWS": _get_rows,
    "SET_ROWS": _set_rows,
    "ADD_ID": lambda _, a, b, numbers: a + b[0, 0][numbers[0, 0].long()],
}
