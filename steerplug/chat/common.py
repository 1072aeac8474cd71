"""How much two texts, or rows of tokens, have in common at their beginnings."""

from collections.abc import Sequence
from typing import Any


def n_common(a: Sequence[Any], b: Sequence[Any], begin: int = 0) -> int:
    """Return how many leading items of `a` stand in `b` from `begin` on."""
    low, high = 0, min(len(a), len(b) - begin)
    while low < high:
        middle = (low + high + 1) // 2
        same = a[low:middle] == b[begin + low : begin + middle]
        low, high = (middle, high) if same else (low, middle - 1)
    return low
