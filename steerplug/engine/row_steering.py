"""What steers one row of a batch: steerings laid out for C, once each.

Changing a preset costs an entry of a table: a row's terms are addresses of what lies here.
"""

import ctypes
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from steerplug.steering.value import Array, Mix, Steering

_FLOATS = ctypes.c_void_p


class _Delta(ctypes.Structure):
    _fields_ = (
        *((name, _FLOATS) for name in ("z", "W", "b", "Z")),
        *((name, ctypes.c_int32) for name in ("k", "relu", "rms")),
    )


_Tables = tuple[ctypes.Array[_Delta], ...]
"""A steering for C: one table of blocks per position, over arrays that the steering keeps alive."""


@dataclass(frozen=True, eq=False)
class RowSteering:
    """What steers one row: terms ready for C, and the key under which its KV cell may be reused.

    Of each term, `parts` has the steering, and which position of it. What the terms point to is
    kept alive here: other threads may lay the same steering out at the same time.
    """

    key: str
    terms: tuple[tuple[int, float], ...]
    parts: tuple[tuple[Steering, int], ...]
    layers: frozenset[int]
    n_embd: int
    n_layer: int
    alive: tuple[_Tables, ...]


_laid: "WeakKeyDictionary[Steering, _Tables]" = WeakKeyDictionary()


def lay_out(mix: Mix, position: int = 0) -> RowSteering | None:
    """Return what `mix` does to a row, or None for nothing.

    A term in scope "front" contributes its row `position`; the others are the same at any position.
    """
    terms, parts, alive = [], [], []
    layers: set[int] = set()
    key = [mix.digest]
    for term in mix.terms:
        steering = term.steering
        tables = _laid.get(steering)
        if tables is None:
            tables = _laid[steering] = _laid_out(steering)
        row = position if steering.n_positions > 1 else 0
        key.append(str(row))
        strength = ctypes.c_float(term.strength).value  # beyond float32: infinite, so refused
        terms.append((ctypes.addressof(tables[row]), strength))
        parts.append((steering, row))
        alive.append(tables)
        layers.update(steering.layers)
    if not terms:
        return None
    first = mix.terms[0].steering
    return RowSteering(
        "/".join(key), tuple(terms), tuple(parts), frozenset(layers), first.n_embd, first.n_layer,
        tuple(alive),
    )


def _laid_out(steering: Steering) -> _Tables:
    def pointer(array: Array) -> int | None:
        return array.ctypes.data if array.size else None

    tables = []
    for position in range(steering.n_positions):
        table = (_Delta * steering.n_layer)()
        for il, d in steering.layers.items():
            z = d.z[position]
            table[il] = _Delta(
                pointer(z) if z.any() else None, pointer(d.W), pointer(d.b), pointer(d.Z),
                d.n_units, d.act == "relu", d.norm == "rms",
            )  # fmt: skip
        tables.append(table)
    return tuple(tables)
