"""Running states, one token after the other: s' = decay(s) + what the token adds, y = read(s').

    SSM_SCAN           Mamba, arXiv 2312.00752, 2405.21060    s (n_head, n, n_state)
    GATED_DELTA_NET    arXiv 2412.06464                       s (n_head, n_v, n_k)
    RWKV_WKV6, _WKV7   arXiv 2404.05892, 2503.14456           s (n_head, n, n)

Tokens stand sequence after sequence, each of as many. What is made is y of all tokens, and behind
them the states that are left, as ggml lays them out. In float32, whatever else is not.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor as Values
from torch.nn import functional

from steerplug.engine.graph import Tensor


def _convolution(_: Tensor, x: Values, weights: Values) -> Values:
    """Return (1, n_seq, n_tokens, n) of x, (1, n_seq, n, width - 1 + n_tokens)."""
    y = functional.conv1d(x[0], weights[0, 0][:, None].to(x.dtype), groups=weights.shape[2])
    return y.transpose(1, 2)[None]


def _scan(
    t: Tensor, s: Values, x: Values, dt: Values, A: Values, B: Values, C: Values, ids: Values
) -> Values:
    """X (n_seq, n_tokens, n_head, n); B, C (n_seq, n_tokens, n_groups, n_state)."""
    x32, step = x.float(), functional.softplus(dt[0].float())
    each = x.shape[2] // B.shape[2]
    B, C = (part.float().repeat_interleave(each, 2) for part in (B, C))
    decay = torch.exp(step[..., None] * A[0, 0].float())[:, :, :, None]
    added = (x32 * step[..., None])[..., None] * B[:, :, :, None]
    state, states, y = s.float()[ids.flatten().long()], [], []
    for i in range(x.shape[1]):
        state = state * decay[:, i] + added[:, i]
        y.append((state * C[:, i, :, None]).sum(-1))
        states.append(state)
    return _laid_out(t, x, y, _last(t, states))


def _delta_net(
    t: Tensor, q: Values, k: Values, v: Values, g: Values, beta: Values, s: Values
) -> Values:
    """q, k (n_seq, n_tokens, fewer heads, n); v, g, beta (n_seq, n_tokens, n_head, n or 1)."""
    n_seq, n_tokens, n_head, n = v.shape
    q32, k32 = (
        x.float().repeat_interleave(n_seq // x.shape[0], 0).repeat(1, 1, n_head // x.shape[2], 1)
        for x in (q, k)
    )
    v32, decay, beta32 = v.float(), torch.exp(g.float()), beta.float()
    state, states, y = s.float(), [], []
    for i in range(n_tokens):
        state, key = state * decay[:, i][:, :, None], k32[:, i, :, None]
        change = (v32[:, i] - (state * key).sum(-1)) * beta32[:, i]
        state = state + change[..., None] * key
        y.append((state * q32[:, i, :, None]).sum(-1) / math.sqrt(n))
        states.append(state)
    return _laid_out(t, v, y, _last(t, states))


def _wkv6(
    t: Tensor, k: Values, v: Values, r: Values, first: Values, decay: Values, s: Values
) -> Values:
    state, parts = _begun(s, k, v, r, decay)
    bonus, y = first.float().reshape(*k.shape[2:], 1), []
    for key, value, read, kept in parts:
        added = key[..., None] * value[..., None, :]
        y.append(((added * bonus + state) * read[..., None]).sum(-2))
        state = state * kept[..., None] + added
    return _laid_out(t, k, y, [state])


def _wkv7(
    t: Tensor, r: Values, w: Values, k: Values, v: Values, a: Values, b: Values, s: Values
) -> Values:
    state, parts = _begun(s, r, w, k, v, a, b)
    y = []
    for read, kept, key, value, out, into in parts:
        taken = (state * out[..., None, :]).sum(-1, keepdim=True)
        added = value[..., None] * key[..., None, :]
        state = state * kept[..., None, :] + added + taken * into[..., None, :]
        y.append((state * read[..., None, :]).sum(-1))
    return _laid_out(t, k, y, [state])


def _begun(s: Values, *parts: Values) -> tuple[Values, Sequence[tuple[Values, ...]]]:
    """Return the states, (n_seq, n_head, n, n), and of each token its parts, (n_seq, n_head, n).

    Parts are (1, n_seq * n_tokens, n_head, n) as they come.
    """
    n_seq, (n_head, n) = s.shape[2], parts[0].shape[2:]
    by_token = (part.float().reshape(n_seq, -1, n_head, n).unbind(1) for part in parts)
    return s.float().reshape(n_seq, n_head, n, n), list(zip(*by_token, strict=True))


def _last(t: Tensor, states: Sequence[Values]) -> list[Values]:
    """Return the last states, the newest first, as many as are to be kept."""
    n = max(t.integer(0), 1)
    return [*states[: -n - 1 : -1], *[torch.zeros_like(states[0])] * (n - len(states))]


def _laid_out(t: Tensor, like: Values, y: Sequence[Values], states: Sequence[Values]) -> Values:
    every = [torch.stack(tuple(y), 1).flatten(), *(state.flatten() for state in states)]
    return torch.cat(every).view(t.shape).to(like.dtype)


OPERATIONS: Mapping[str, Callable[..., Values]] = {
    "SSM_CONV": _convolution,
    "SSM_SCAN": _scan,
    "GATED_DELTA_NET": _delta_net,
    "RWKV_WKV6": _wkv6,
    "RWKV_WKV7": _wkv7,
}
