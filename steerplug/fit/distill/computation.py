"""A graph of llama.cpp, computed in torch: node by node, with gradients.

What a node makes is kept by its tensor until nobody reads it; views are looked up in their roots.
A node that writes into another tensor, as cells of the cache are filled, leaves a new root in its
place: values that a gradient needs are never written over.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from steerplug.engine.graph import Tensor
from steerplug.errors import TorchCopyError
from steerplug.fit.distill.operations import OPERATIONS, VIEWS
from steerplug.fit.distill.weights import Weights

Change = Callable[[torch.Tensor], torch.Tensor | None]
"""values of a tensor -> what takes their place, or None to leave them"""


def check_operations(nodes: Iterable[Tensor]) -> None:
    """Refuse a graph of which a node cannot be computed here.

    Raises:
        TorchCopyError: which operation it is.
    """
    unknown = {t.operation for t in nodes} - OPERATIONS.keys() - VIEWS
    if unknown:
        raise TorchCopyError(f"llama.cpp's graph has `{min(unknown)}`, which torch is not taught")


class Computation:
    """The values of a graph's tensors, as far as they are computed.

    Args:
        weights: of the model.
        changes: of tensors, by name: put in the place of what was computed, or of what cells hold.
        beside: by the name of a matrix, what its products get besides, given their rows.
    """

    def __init__(
        self,
        weights: Weights,
        changes: Mapping[str, Change] | None = None,
        beside: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ) -> None:
        self._weights, self._changes, self._beside = weights, changes or {}, beside or {}
        self._held: dict[Tensor, torch.Tensor] = {}
        self._needed: dict[Tensor, int] = {}

    def run(self, nodes: Sequence[Tensor], kept: Sequence[Tensor] | None = None) -> None:
        """Compute nodes, in the graph's order.

        Args:
            nodes: what is computed.
            kept: whose values are asked for afterwards; all others are dropped once no node reads
                them any more. None: all are kept.
        """
        self._needed |= _needed(nodes)
        read_last = {} if kept is None else _read_last(nodes, kept)
        for i, t in enumerate(nodes):
            if t.operation not in VIEWS:
                self._put(t, self._made(t))
            if change := self._changes.get(t.name):
                changed = change(self.value(t))
                if changed is not None:
                    self._put(t, changed)
            for root in read_last.get(i, ()):
                self._held.pop(root, None)

    def value(self, t: Tensor) -> torch.Tensor:
        """Return the values of a tensor, in its shape."""
        if t in self._held:
            return self._held[t]
        if t.root not in self._held:
            self._held[t.root] = self._leaf(t.root)
        return _seen(self._held[t.root], t)

    def give(self, t: Tensor, values: torch.Tensor) -> None:
        """Let a tensor have these values, of whatever made it."""
        self._held[t] = values

    def _made(self, t: Tensor) -> torch.Tensor:
        sources = [self._source(t, i, each) for i, each in enumerate(t.sources)]
        made = OPERATIONS[t.operation](t, *sources)
        first = t.sources[0]
        if first is not None and first.is_weight and t.operation == "MUL_MAT":
            beside = self._beside.get(first.name)
            return made if beside is None else made + beside(sources[1])
        return made

    def _source(self, t: Tensor, i: int, source: Tensor | None) -> Any:
        if source is None:
            return None
        if i == 0 and source.is_weight and _may_be_packed(t, source):
            return self._weights.matrix(source.name)
        return self.value(source)

    def _leaf(self, t: Tensor) -> torch.Tensor:
        if t.values is None:
            return self._weights.values(t.name).view(t.shape)
        # A copy, as the next decode fills these places anew.
        held = t.values[:, :, : self._needed.get(t)]
        values = torch.from_numpy(held.copy()).to(self._weights.device)
        if values.is_floating_point():
            values = values.to(self._weights.dtype)
        change = self._changes.get(t.name)
        changed = change(values) if change else None
        return values if changed is None else changed

    def _put(self, t: Tensor, values: torch.Tensor) -> None:
        if t.view_of is None:
            self._held[t] = values
            return
        whole = self.value(t.root)
        values = values.to(whole.dtype)
        if t.shape == t.view_of.shape and t.strides == t.view_of.strides:  # all of what is kept
            self._held[t.root] = values.reshape(whole.shape)
            return
        self._held[t.root] = torch.as_strided_scatter(
            whole.contiguous(), values.reshape(t.shape), t.shape, t.strides, t.offset
        )


def _may_be_packed(t: Tensor, matrix: Tensor) -> bool:
    """Whether an operation takes its matrix, or those of experts, as they lie in the file."""
    is_one = matrix.shape[:2] == (1, 1)
    return t.operation == "MUL_MAT_ID" or (is_one and t.operation in ("MUL_MAT", "GET_ROWS"))


def _needed(nodes: Sequence[Tensor]) -> dict[Tensor, int]:
    """Return how many first rows of cells are read; most are of no use to a batch."""
    needed: dict[Tensor, int] = {}
    for t in nodes:
        if t.operation in VIEWS:
            continue
        for source in t.sources:
            root = None if source is None else source.root
            if source is None or root is None or root.values is None or root.is_integer:
                continue
            if t.operation == "SET_ROWS" and source is root:
                continue  # rows are written that others read
            needed[root] = max(_reach(source) // root.shape[-1] + 1, needed.get(root, 0))
    return needed


def _read_last(nodes: Sequence[Tensor], kept: Sequence[Tensor]) -> dict[int, list[Tensor]]:
    """Return the roots that no node reads after this one, by its number, but for those kept."""
    last = {
        each.root: i for i, t in enumerate(nodes) for each in (t, *t.sources) if each is not None
    }
    for t in kept:
        last.pop(t.root, None)
    read_last: dict[int, list[Tensor]] = {}
    for root, i in last.items():
        read_last.setdefault(i, []).append(root)
    return read_last


def _reach(t: Tensor) -> int:
    """Return the last place of its root that a view shows."""
    return t.offset + sum((n - 1) * step for n, step in zip(t.shape, t.strides, strict=True))


def _seen(root: torch.Tensor, t: Tensor) -> torch.Tensor:
    """Return what a view shows of its root."""
    if t.view_of is None:
        return root
    order = _permutation(t)
    if order is None or t.offset or root.numel() != math.prod(t.shape):
        return torch.as_strided(root.contiguous(), t.shape, t.strides, t.offset)
    laid = root.reshape([t.shape[i] for i in order])
    return laid.permute([order.index(i) for i in range(4)])


def _permutation(t: Tensor) -> list[int] | None:
    """Return the dimensions from far to near, if nothing is left out between their values."""
    single = [i for i in range(4) if t.shape[i] == 1]
    order, step = list[int](), 1
    for i in sorted(set(range(4)) - set(single), key=lambda i: t.strides[i]):
        if t.strides[i] != step:
            return None
        order.insert(0, i)
        step *= t.shape[i]
    return single + order

