"""Which tensors of a GGUF can stay packed as weights of a transformers model, and how they do.

A matrix of a linear part or an embedding can, if it is a tensor of the file but for the order of
its rows, which `llama`'s queries and keys have differently. What does the reordering is asked: it
is given the numbers of rows and of columns in the place of the values.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from steerplug.engine.dequantise import dequantiser
from steerplug.fit.distill.packed import STEP, Packed, Workspace

Restore = Callable[[str, NDArray[Any]], NDArray[Any]]
"""(name of a tensor, its values) -> the parameter that they are"""


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
    shared = Counter(placed.values())
    for tensor in tensors:
        name, kind = str(tensor.name), tensor.tensor_type.name
        owner = owner_of(module, placed.get(name, ""))
        if owner is None or shared[placed[name]] > 1 or not (kind == "F32" or dequantiser(kind)):
            continue
        n_out, n_in = owner.weight.shape
        if tensor.shape.tolist() != [n_in, n_out] or n_in > STEP:
            continue
        order = row_order(name, n_out, n_in, restore)
        if order is None:
            continue
        rows = tensor.data.view(np.uint8)
        rows = rows if (order == np.arange(n_out)).all() else rows[order]
        put(owner, Packed(rows, kind, n_in, workspace))
        done.add(name)
    return done


def put(owner: nn.Module, weight: Packed) -> None:
    """Let a part of a model multiply by a packed weight."""
    owner._parameters.pop("weight", None)
    owner.weight = weight


def unpack(module: nn.Module, room: float = math.inf) -> None:
    """Dequantise what a model has packed, once and for all, as far as there is room; it is quicker.

    Args:
        module: a model, whose output matrix comes first: it multiplies most.
        room: bytes.
    """
    last = module.get_output_embeddings()
    done: dict[int, nn.Parameter] = {}
    for part in sorted(packed_of(module), key=lambda each: each is not last):
        weight = vars(part)["weight"]
        size = weight.shape.numel() * weight.dtype.itemsize
        if id(weight) not in done:
            if size > room:
                continue
            room -= size
            done[id(weight)] = nn.Parameter(weight.dense(), requires_grad=False)
        del vars(part)["weight"]
        part.weight = done[id(weight)]


def packed_of(module: nn.Module) -> list[nn.Module]:
    """Return the parts of a model whose weights are packed."""
    return [part for part in module.modules() if isinstance(vars(part).get("weight"), Packed)]


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
    """Return the linear part or embedding of which a parameter is the matrix, or None."""
    path, _, own = parameter.rpartition(".")
    if own != "weight":
        return None
    owner = module.get_submodule(path)
    return owner if isinstance(owner, nn.Linear | nn.Embedding) else None


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
