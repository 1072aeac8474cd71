"""A matrix times rows: y = x W^T, W (n3, n2, n_out, n_in), x (n3, n2, n_rows, n_in).

Where x has more matrices than W, as queries have more heads than keys, each of W's serves as many
of x's that follow one another.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor as Values
from torch.nn import functional

from steerplug.engine.graph import Tensor
from steerplug.fit.distill.packed import Packed, PackedExperts


def _product(_: Tensor, w: Values | Packed, x: Values) -> Values:
    if isinstance(w, Packed):
        return functional.linear(x, w)
    if w.shape[:2] == (1, 1):
        return functional.linear(x.to(w.dtype), w[0, 0])
    if w.shape[0] < x.shape[0]:
        w = w.repeat_interleave(x.shape[0] // w.shape[0], 0)
    return by_head(x, w.transpose(-1, -2))


def by_head(x: Values, w: Values) -> Values:
    """Return x w, (n3, n_head, n_rows, n): each matrix of w for several heads of x in a row."""
    n3, n_head, n_rows, n_in = x.shape
    if w.shape[1] == n_head:
        return x @ w
    y = x.reshape(n3, w.shape[1], n_head // w.shape[1] * n_rows, n_in) @ w
    return y.reshape(n3, n_head, n_rows, -1)


def _product_by_expert(
    t: Tensor, experts: Values | PackedExperts, x: Values, ids: Values
) -> Values:
    """Return (1, n_rows, n_used, n_out), each row by the experts of its numbers, (n_rows, n_used).

    x is (1, n_rows, n_used, n_in), or one row for all of its experts.
    """
    chosen = ids[0, 0].long()
    rows = x[0].expand(*chosen.shape, x.shape[-1]).reshape(-1, x.shape[-1])
    chosen, parts, order = chosen.flatten(), [], []
    for expert in chosen.unique().tolist():
        own = (chosen == expert).nonzero()[:, 0]
        w = experts[expert] if isinstance(experts, PackedExperts) else experts[0, expert]
        parts.append(functional.linear(rows[own], w))
        order.append(own)
    return torch.cat(parts)[torch.cat(order).argsort()].reshape(t.shape)


OPERATIONS: Mapping[str, Callable[..., Values]] = {
    "MUL_MAT": _product,
    "MUL_MAT_ID": _product_by_expert,
}
