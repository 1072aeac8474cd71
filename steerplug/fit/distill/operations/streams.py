"""Residual streams that are mixed (hyper-connections, arXiv 2409.19606), and an index of cells.

    comb  4 x 4 for each token: softmax of each row, then rows and columns divided by their sums,
          n times over (Sinkhorn), ending with columns
    pre   x = scale sum_s w_s h_s                 what a part of the block reads
    post  h'_s = post_s x + sum_r comb_rs h_r     what it leaves in each stream
    index score = sum_h w_h ReLU(q_h . k) + mask  of each cell, for attention to a few of them

Shapes: mixes (1, 1, n_rows, 24), of which comb takes the last 16; h (1, n_rows, 4, n_embd).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor as Values

from steerplug.engine.graph import Tensor

_N = 4


def _comb(t: Tensor, mixes: Values, scale: Values, base: Values) -> Values:
    eps, n_iter = t.number(0), t.integer(1)
    own = slice(2 * _N, None)
    x = mixes[0, 0, :, own].float() * scale.flatten()[2] + base.flatten()[own]
    comb = x.reshape(-1, _N, _N).softmax(-1) + eps
    comb = comb / (comb.sum(-2, keepdim=True) + eps)
    for _ in range(n_iter - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + eps)
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
    return comb[None].to(mixes.dtype)


def _pre(t: Tensor, h: Values, weights: Values) -> Values:
    is_gated = t.integer(1)
    w = torch.sigmoid(weights[0]) if is_gated else weights[0, 0][..., None]
    return (t.number(0) * (h[0] * w).sum(-2))[None, None]


def _post(_: Tensor, x: Values, h: Values, post: Values, comb: Values | None = None) -> Values:
    mixed = h[0] if comb is None else comb[0].transpose(-1, -2) @ h[0]
    return (x[0, 0][:, None] * post[0, 0][..., None] + mixed)[None]


def _index(_: Tensor, q: Values, k: Values, weights: Values, mask: Values) -> Values:
    """Q (n3, n_rows, n_head, n), k (n3, n_cells, 1, n), weights (n3, 1, n_rows, n_head)."""
    read = torch.relu(torch.einsum("srhn,scn->srhc", q, k[:, :, 0].to(q.dtype)))
    scores = torch.einsum("srhc,srh->src", read, weights[:, 0])
    return scores[:, None] + mask[:, :, : q.shape[1]]


OPERATIONS: Mapping[str, Callable[..., Values]] = {
    "DSV4_HC_COMB": _comb,
    "DSV4_HC_PRE": _pre,
    "DSV4_HC_POST": _post,
    "LIGHTNING_INDEXER": _index,
}
