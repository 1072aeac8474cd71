"""ggml's operations in torch, with gradients: each as llama.cpp computes it.

    values       one value at a time, and what makes rows of them comparable
    places       where values lie: rows looked up and written, joined, repeated, sorted
    products     a matrix times rows; of several, those that a token chose
    attention    softmax, alone and with its two products
    rotation     queries and keys turned by their positions
    states       running states, one token after the other
    streams      residual streams that are mixed (hyper-connections)

Each takes the tensor of the graph that it makes, for its shape and parameters, and the values of
its sources. Shapes are the graph's, (n3, n2, n1, n0). Source: ggml (MIT), whose every operation is
held against these in tests/fit/test_operations.
"""

from collections.abc import Callable, Mapping

import torch

from steerplug.fit.distill.operations import (
    attention,
    places,
    products,
    rotation,
    states,
    streams,
    values,
)

Operation = Callable[..., torch.Tensor]

OPERATIONS: Mapping[str, Operation] = {
    **values.OPERATIONS,
    **places.OPERATIONS,
    **products.OPERATIONS,
    **attention.OPERATIONS,
    **rotation.OPERATIONS,
    **states.OPERATIONS,
    **streams.OPERATIONS,
}
"""By ggml's names."""

VIEWS = frozenset({"NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"})
"""By which nothing is computed."""
