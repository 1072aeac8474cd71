"""The native hook's functions in NumPy, under the same names: the oracle of native/steer.c.

Equation, shapes and sign: see steering/value.py. Everything is float32, as in the native code; sums
run in another order, so results agree within rounding, and exactly where no sum is taken.
"""

from collections.abc import Sequence

import numpy as np

from steerplug.steering.value import Array, Delta, Term


def add_delta(delta: Delta, strength: float, h: Array, position: int = 0) -> Array:
    """Return `strength * delta(h)` for one row; h: (n_embd,)."""
    read = delta.W @ h
    if delta.norm == "rms":
        mean_square = np.mean(h * h, dtype=np.float32)
        read = read / np.sqrt(mean_square) if mean_square > 0 else np.zeros_like(read)
    read = read + delta.b
    if delta.act == "relu":
        read = np.maximum(read, 0)
    return np.float32(strength) * delta.z[position] + (np.float32(strength) * read) @ delta.Z


def steer_row(h: Array, terms: Sequence[Term], il: int, position: int = 0) -> Array:
    """Return one steered row: `h + sum_i strength_i * delta_i(h)` at block il; h: (n_embd,)."""
    change = np.zeros_like(h)
    for term in terms:
        delta = term.steering.layers.get(il)
        if delta is not None:
            change = change + add_delta(delta, term.strength, h, position)
    return h + change
