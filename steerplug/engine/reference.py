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
        length = np.sqrt(np.sum(h * h, dtype=np.float32))
        inverse_rms = np.sqrt(np.float32(len(h))) / length if length > 0 else np.float32(0)
        read = read * inverse_rms
    read = read + delta.b
    if delta.act == "relu":
        read = np.maximum(read, 0)
    scale = np.float32(strength)
    return np.asarray(scale * delta.z[position] + (scale * read) @ delta.Z)


def steer_row(h: Array, terms: Sequence[Term], il: int, position: int = 0) -> Array:
    """Return one steered row: `h + sum_i strength_i * delta_i(h)` at block il; h: (n_embd,)."""
    change = np.zeros_like(h)
    for term in terms:
        delta = term.steering.layers.get(il)
        if delta is not None:
            change = change + add_delta(delta, term.strength, h, position)
    return h + change
