"""One value at a time, and norms, which make rows of them comparable; see ggml.h for the names.

Norms, in float32, over the last dimension, with eps the first parameter:

    NORM      (x - mean x) / sqrt(var x + eps)
    RMS_NORM  x / sqrt(mean x^2 + eps)
    L2_NORM   x / max(|x|, eps)

A gated linear unit is act(a) b; a and b are two tensors, or the halves of one.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor as Values
from torch.nn import functional

from steerplug.engine.graph import Tensor

_QUICK = 1.702


def _gelu(x: Values) -> Values:
    return functional.gelu(x, approximate="tanh")


def _gelu_quick(x: Values) -> Values:
    return x * torch.sigmoid(_QUICK * x)


_UNARY: tuple[Callable[[Values], Values] | None, ...] = (
    torch.abs, torch.sign, torch.neg, lambda x: (x > 0).to(x.dtype), torch.tanh, functional.elu,
    torch.relu, torch.sigmoid, _gelu, _gelu_quick, functional.silu, functional.hardswish,
    functional.hardsigmoid, torch.exp, torch.expm1, functional.softplus, functional.gelu, None,
    torch.floor, torch.ceil, torch.round, torch.trunc,
)  # fmt: skip
"""By `ggml_unary_op`; xIELU has parameters."""

_GATES: tuple[Callable[[Values], Values] | None, ...] = (
    torch.relu, _gelu, functional.silu, None, functional.gelu, _gelu_quick, None,
)  # fmt: skip
"""By `ggml_glu_op`; two of them have parameters."""
_OAI, _CLAMPED = 3, 6


def _unary(t: Tensor, x: Values) -> Values:
    act = _UNARY[t.integer(0)]
    return _xielu(t, x) if act is None else act(x)


def _xielu(t: Tensor, x: Values) -> Values:
    alpha_n, alpha_p, beta, eps = (t.number(i) for i in range(1, 5))
    below = (torch.expm1(x.clamp(max=eps)) - x) * alpha_n
    return torch.where(x > 0, alpha_p * x * x, below) + beta * x


def _glu(t: Tensor, a: Values, b: Values | None = None) -> Values:
    kind, is_swapped = t.integer(0), t.integer(1)
    if b is None:
        first, second = a.chunk(2, -1)
        a, b = (second, first) if is_swapped else (first, second)
    if act := _GATES[kind]:
        return act(a) * b
    limit = t.number(3)
    a, b = a.clamp(max=limit), b.clamp(-limit, limit)
    return functional.silu(a) * b if kind == _CLAMPED else (
        a * torch.sigmoid(t.number(2) * a) * (b + 1)
    )  # fmt: skip


def _norm(t: Tensor, x: Values) -> Values:
    return functional.layer_norm(x.float(), x.shape[-1:], eps=t.number(0)).to(x.dtype)


def _rms_norm(t: Tensor, x: Values) -> Values:
    return functional.rms_norm(x.float(), x.shape[-1:], eps=t.number(0)).to(x.dtype)


def _l2_norm(t: Tensor, x: Values) -> Values:
    return functional.normalize(x.float(), dim=-1, eps=t.number(0)).to(x.dtype)


def _scale(t: Tensor, x: Values) -> Values:
    s, b = t.number(0), t.number(1)
    return x * s + b if b else x * s


def repeated(b: Values, a: Values) -> Values:
    """Return b as it broadcasts to a: ggml repeats whole rows as well as single values."""
    times = [n // m for n, m in zip(a.shape, b.shape, strict=True)]
    if all(n == 1 or m == 1 for n, m in zip(times, b.shape, strict=True)):
        return b
    return b.repeat(times)


OPERATIONS: Mapping[str, Callable[..., Values]] = {
    "ADD": lambda _, a, b: a + repeated(b, a),
    "SUB": lambda _, a, b: a - repeated(b, a),
    "MUL": lambda _, a, b: a * repeated(b, a),
    "DIV": lambda _, a, b: a / repeated(b, a),
    "SQR": lambda _, x: x * x,
    "SQRT": lambda _, x: x.sqrt(),
    "SUM_ROWS": lambda _, x: x.sum(-1, keepdim=True),
    "MEAN": lambda _, x: x.mean(-1, keepdim=True),
    "SCALE": _scale,
    "CLAMP": lambda t, x: x.clamp(t.number(0), t.number(1)),
    "UNARY": _unary,
    "GLU": _glu,
    "NORM": _norm,
    "RMS_NORM": _rms_norm,
    "L2_NORM": _l2_norm,
}
