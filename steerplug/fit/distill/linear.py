"""Which linear part of a torch copy is which matrix of the GGUF.

    W_torch[i] = W_file[order[i]]

Rows are outputs. They differ where llama.cpp turns queries and keys by neighbours, and
transformers by the halves of a head.
"""

from collections import Counter
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import nn

from steerplug.engine.model import Model
from steerplug.fit.distill.packing import owner_of, row_order
from steerplug.fit.distill.weights import places, quietly, read_once


class Part(NamedTuple):
    """A linear part, and the order of its rows in the file, (n_out,)."""

    module: nn.Linear
    order: NDArray[Any]


def linear_parts(module: Any, model: Model) -> dict[str, Part]:
    """Return the linear parts of the blocks that are a tensor of the file each, by its name.

    Args:
        module: the torch copy, a transformers model.
        model: what it is a copy of.
    """
    with torch.device("meta"), read_once(()), quietly():
        bones = type(module)(module.config)  # what is packed is no parameter any more
        placed, restore = places(bones, model)
    shared, parts = Counter(placed.values()), {}
    for name, parameter in placed.items():
        is_matrix = name.startswith("blk.") and parameter.endswith(".weight")
        if not is_matrix or shared[parameter] > 1:
            continue
        owner = owner_of(module, parameter)
        if not isinstance(owner, nn.Linear):
            continue
        order = row_order(name, owner.out_features, owner.in_features, restore)
        if order is not None:
            parts[name] = Part(owner, order)
    return parts
