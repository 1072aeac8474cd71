"""Which tensors of a GGUF can stay packed as weights of a transformers model, and how they do.

A matrix of a linear part or an embedding can, if it is a tensor of the file but for the order of
its rows, which `llama`'s queries and keys have differently. What does the reordering is asked: it
is given the numbers of rows and of columns in the place of the values. So can the matrices of
experts, which transformers keeps as one parameter (n_experts, n_out, n_in), where gate and up are
two tensors of the file.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from steerplug.engine.dequantise import dequantiser
from steerplug.fit.distill.experts import Joined, PackedExperts
from steerplug.fit.distill.packed import STEP, Packed, Weight, Workspace

Restore = Callable[[str, NDArray[Any]], NDArray[Any]]
"""(name of a tensor, its values) -> the parameter that they are"""

_EXPERTS = {
    "gate_up_proj": (("ffn_gate_exps", "ffn_up_exps"), ("ffn_gate_up_exps",)),
    "down_proj": (("ffn_down_exps",),),
}
"""Parameters that hold the matrices of all experts, and the tensors of which they may be made."""


def pack(
    module: nn.Module, tensors: Iterable[Any], placed: Mapping[str, str], restore: Restore
) -> set[str]:
    """Put what can stay packed into a module; return the names of these tensors.

    Args:
        module: a transformers model, whose weights are not there yet.
        tensors: of the file, as gguf reads them.
        placed: the parameter that each tensor fills, by its name.
        restore: what else makes parameters of them.
    """
    workspace, done = Workspace(torch.get_num_threads()), set()
    filled: dict[str, list[Any]] = {}
    for tensor in tensors:
        names = str(tensor.name), str(tensor.name).removesuffix(".weight")
        if name := next((placed[each] for each in names if each in placed), None):
            filled.setdefault(name, []).append(tensor)
    for name, parts in filled.items():
        owner, own = owner_of(module, name), name.rpartition(".")[2]
        weight: Weight | None
        if own in _EXPERTS:
            weight = _experts(getattr(owner, own), parts, _EXPERTS[own], workspace)
        elif isinstance(owner, nn.Linear | nn.Embedding) and own == "weight":
            weight = _matrix(owner.weight, parts, restore, workspace)
        else:
            continue
        if weight is not None:
            put(owner, own, weight)
            done |= {str(tensor.name) for tensor in parts}
    return done


def put(owner: nn.Module, own: str, weight: Weight) -> None:
    """Let a part of a model multiply by a packed weight, under its own name for it."""
    owner._parameters.pop(own, None)
    setattr(owner, own, weight)


def unpack(module: nn.Module, room: float = math.inf) -> None:
    """Dequantise what a model has packed, once and for all, as far as there is room; it is quicker.

    Args:
        module: a model, whose output matrix comes first: it multiplies most.
        room: bytes.
    """
    last = module.get_output_embeddings()
    done: dict[int, nn.Parameter] = {}
    for owner, own in sorted(packed_of(module), key=lambda each: each[0] is not last):
        weight = vars(owner)[own]
        size = weight.shape.numel() * weight.dtype.itemsize
        if id(weight) not in done:
            if size > room:
                continue
            room -= size
            done[id(weight)] = nn.Parameter(weight.dense(), requires_grad=False)
        del vars(owner)[own]
        setattr(owner, own, done[id(weight)])


def packed_of(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the parts of a model that have packed weights, and their names for them."""
    return [
        (part, own)
        for part in module.modules()
        for own, value in vars(part).items()
        if isinstance(value, Weight)
    ]


@contextlib.contextmanager
def unallocated() -> Iterator[None]:
    """Let matrices of models that are made meanwhile take no memory: what is read replaces them."""
    register = nn.Module.register_parameter

    def register_bare(self: nn.Module, name: str, value: nn.Parameter | None) -> None:
        if value is not None and value.ndim > 1:
            value = nn.Parameter(value.to("meta"), requires_grad=False)
        register(self, name, value)

    with mock.patch.object(nn.Module, "register_parameter", register_bare):
        yield


def owner_of(module: nn.Module, parameter: str) -> Any:
    """Return the part of a model whose parameter this is."""
    return module.get_submodule(parameter.rpartition(".")[0])


def _matrix(
    parameter: torch.Tensor, tensors: Sequence[Any], restore: Restore, workspace: Workspace
) -> Packed | None:
    """Return the matrix that some tensors make, or None if it has to be dequantised.

    Several are one below the other, in the order of their names.
    """
    n_out, n_in = parameter.shape
    ordered = sorted(tensors, key=lambda tensor: str(tensor.name))
    if any(tensor.shape.tolist()[::-1][1:] != [n_in] for tensor in ordered):
        return None
    parts = [_rows(tensor, n_in, restore, workspace) for tensor in ordered]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or sum(part.shape[0] for part in found) != n_out:
        return None
    return found[0] if len(found) == 1 else Joined(found)


def _rows(tensor: Any, n_in: int, restore: Restore, workspace: Workspace) -> Packed | None:
    """Return a tensor as the rows that it is, but for their order, or None."""
    n_out, kind = int(tensor.shape[1]), tensor.tensor_type.name
    if not _is_packable(tensor):
        return None
    order = row_order(str(tensor.name), n_out, n_in, restore)
    if order is None:
        return None
    rows = tensor.data.view(np.uint8)
    rows = rows if (order == np.arange(n_out)).all() else rows[order]
    return Packed(rows, kind, n_in, workspace)


def _experts(
    parameter: torch.Tensor,
    tensors: Sequence[Any],
    ways: Sequence[Sequence[str]],
    workspace: Workspace,
) -> PackedExperts | None:
    """Return the matrices of all experts, made of tensors in one of these ways, or None."""
    found = {str(tensor.name).split(".")[2]: tensor for tensor in tensors}
    parts = [found[kind] for kind in next((way for way in ways if {*way} == {*found}), ())]
    n_experts, n_out, n_in = parameter.shape
    wanted = [n_in, n_out // max(len(parts), 1), n_experts]
    if not parts or any(not _is_packable(p) or p.shape.tolist() != wanted for p in parts):
        return None
    rows = [(part.data.view(np.uint8), part.tensor_type.name) for part in parts]
    return PackedExperts([
        [Packed(each[i], kind, n_in, workspace) for each, kind in rows] for i in range(n_experts)
    ])


def _is_packable(tensor: Any) -> bool:
    kind = tensor.tensor_type.name
    return tensor.shape[0] <= STEP and bool(kind == "F32" or dequantiser(kind))


def row_order(name: str, n_out: int, n_in: int, restore: Restore) -> NDArray[Any] | None:
    """Return the order in which a tensor's rows make its parameter, or None if that is not all."""
    columns = np.arange(n_in, dtype=np.int32)
    try:
        order = restore(name, np.arange(n_out, dtype=np.int32)[:, None])
        same = restore(name, np.broadcast_to(columns, (n_out, n_in)))
    except Exception:  # of a library that wants other values: they are dequantised, then
        return None
    if order.shape != (n_out, 1) or same.shape != (n_out, n_in) or (same[0] != columns).any():
        return None
    order = order[:, 0]
    return order if (np.sort(order) == np.arange(n_out)).all() else None
