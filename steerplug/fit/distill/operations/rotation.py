"""Pairs of values turned by their position (RoPE, arXiv 2104.09864), and scaled as YaRN does.

    (a, b) -> m (a cos w - b sin w, a sin w + b cos w)
    w = scale position base^(-2 i / n) / factor_i           pair i of n / 2
    m = the stretch that is stated

With YaRN (arXiv 2309.00071) pairs that turn often keep their frequency, those that turn seldom
have it scaled, and m grows by 0.1 log(1 / scale). Pairs are neighbours, or the halves of the
values. Several positions may be stated for a row, each for some of the pairs (M-RoPE).

Shapes: x (n3, n_rows, n_head, n_values), of which n are turned, from an offset on; positions
(n_rows,) or (4 n_rows,).
"""

import math
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor as Values
from torch.utils.weak import WeakIdKeyDictionary

from steerplug.engine.graph import Tensor

_HALVES, _SECTIONS, _INTERLEAVED = 2, 8, 32
"""Bits of the mode."""


def _turned(t: Tensor, x: Values, positions: Values, factors: Values | None = None) -> Values:
    return _turn(t, x, *_angles(t, positions, factors))


def _turned_back(t: Tensor, x: Values, positions: Values, factors: Values | None = None) -> Values:
    cos, sin = _angles(t, positions, factors)
    return _turn(t, x, cos, -sin)


def _turn(t: Tensor, x: Values, cos: Values, sin: Values) -> Values:
    n, begin = t.integer(1), t.integer(15)
    before, own, after = x.split([begin, n, x.shape[-1] - begin - n], -1)
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    if t.integer(2) & (_HALVES | _SECTIONS):
        a, b = own.chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    else:
        a, b = own[..., ::2], own[..., 1::2]
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    return turned if n == x.shape[-1] else torch.cat([before, turned, after], -1)


_Angles = tuple[Values, Values]
_known: MutableMapping[Values, dict[Any, _Angles]] = WeakIdKeyDictionary()
"""Angles by positions, and by parameters and factors: blocks that turn alike share them."""


def _angles(t: Tensor, positions: Values, factors: Values | None) -> _Angles:
    """Return m cos w and m sin w, (n_rows, n / 2)."""
    known, alike = _known.setdefault(positions, {}), (t.parameters, *t.sources[2:])
    if alike not in known:
        known[alike] = _made(t, positions, factors)
    return known[alike]


def _made(t: Tensor, positions: Values, factors: Values | None) -> _Angles:
    n, n_ctx = t.integer(1), t.integer(4)
    base, scale, share, stretch, fast, slow = (t.number(i) for i in range(5, 11))
    pairs = torch.arange(n // 2, dtype=torch.float64, device=positions.device)
    unscaled = _places(t, positions) * base ** (-2 * pairs / n)
    if factors is not None:
        unscaled = unscaled / factors.flatten()[: n // 2].double()
    w = scale * unscaled
    if share:
        low, high = _turning(n, n_ctx, base, fast), _turning(n, n_ctx, base, slow)
        low, high = max(0, math.floor(low)), min(n - 1, math.ceil(high))
        kept = share * (1 - ((pairs - low) / max(0.001, high - low)).clamp(0, 1))
        w = w * (1 - kept) + unscaled * kept
        stretch *= 1 + 0.1 * math.log(1 / scale)
    return (w.cos() * stretch).float(), (w.sin() * stretch).float()


def _turning(n: int, n_ctx: int, base: float, turns: float) -> float:
    """Return which pair turns so often within the original context."""
    return n * math.log(n_ctx / (turns * 2 * math.pi)) / (2 * math.log(base))


def _places(t: Tensor, positions: Values) -> Values:
    """Return by which position each pair is turned, (n_rows, 1 or n / 2)."""
    every = positions.flatten().double()
    if not t.integer(2) & _SECTIONS:
        return every[:, None]
    sections = [t.integer(11 + i) for i in range(4)]
    kinds = _kinds(sections, t.integer(1) // 2, bool(t.integer(2) & _INTERLEAVED))
    return every.view(4, -1)[kinds].T


def _kinds(sections: list[int], n_pairs: int, is_interleaved: bool) -> list[int]:
    """Return which of the four positions turns each pair."""
    ends = [sum(sections[: i + 1]) for i in range(4)]
    places = [i % ends[-1] for i in range(n_pairs)]
    if is_interleaved:
        return [i % 3 if i < 3 * sections[i % 3] else 3 for i in places]
    return [next(kind for kind, end in enumerate(ends) if i < end) for i in places]


OPERATIONS: Mapping[str, Callable[..., Values]] = {"ROPE": _turned, "ROPE_BACK": _turned_back}
