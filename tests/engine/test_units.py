"""Steerings as units, and the places these have on a device; in Python alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerplug.engine.reference import add_delta
from steerplug.engine.units import FEWEST, KEPT, Places, has_plain, n_places, units
from steerplug.errors import EngineError
from steerplug.steering.value import Array, Delta, Steering
from tests.engine.test_native_hook import KINDS, a_delta


def written(delta: Delta, h: Array, position: int = 0) -> Array:
    """What the units of a delta write, in float64."""
    rms = np.sqrt(np.mean(h.astype(np.float64) ** 2))
    total = np.zeros(len(h))
    for kind, x in (("normed", h / rms), ("plain", h.astype(np.float64))):
        its = units(delta, position)[kind]  # type: ignore[index]
        total += np.maximum(its.W.astype(np.float64) @ x + its.b, 0) @ its.Z
    return np.asarray(total)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [0, 1, 3])
def test_what_units_write_is_the_delta(kind: str, k: int) -> None:
    rng = np.random.default_rng(k)
    delta, h = a_delta(kind, 33, k, rng), rng.standard_normal(33).astype(np.float32)
    np.testing.assert_allclose(written(delta, h), add_delta(delta, 1.0, h), rtol=1e-4, atol=1e-4)


def test_each_position_of_a_steering_is_units_of_its_own() -> None:
    rng = np.random.default_rng(0)
    z, h = rng.standard_normal((2, 3, 17)).astype(np.float32)
    for position in range(3):
        np.testing.assert_allclose(
            written(Delta.constant(z), h[0], position), z[position], rtol=1e-6
        )


def test_a_steering_takes_as_many_places_as_at_its_richest_block() -> None:
    rng = np.random.default_rng(0)
    gated, affine = (a_delta(kind, 8, 3, rng) for kind in ("gated", "affine"))
    assert n_places(Steering("a gate", 8, 4, {1: gated}), 0) == 3
    both = Steering("both", 8, 4, {1: gated, 2: affine})
    assert n_places(both, 0) == 6  # three pairs; the constant is of the other kind
    assert has_plain(both)
    assert not has_plain(Steering("a gate", 8, 4, {1: gated}))




@given(st.lists(st.sets(st.integers(0, 40), min_size=1, max_size=12), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_places_never_overlap_and_stay_until_they_have_to_give_way(asked: list[set[int]]) -> None:
    places, last_used = Places(), dict[int, int]()
    for step, keys in enumerate(asked):
        sizes = {(str(key), 0): 1 + key % 5 for key in keys}
        before = {key: places[key] for key in map(_key, last_used) if key in places}
        capacity = places.capacity
        is_new = places.place(sizes)
        assert is_new == any(key not in before for key in sizes)
        assert all(len(places[key]) == size for key, size in sizes.items())
        held = [place for key in {*before, *sizes} if key in places for place in places[key]]
        assert len(held) == len(set(held)) == places.n_held
        assert set(held) <= set(range(places.capacity))
        assert capacity <= places.capacity
        assert places.capacity & (places.capacity - 1) == 0
        assert places.capacity < 2 * max(FEWEST, KEPT, sum(sizes.values()))
        for key, was in before.items():
            assert key not in places or places[key] == was
        last_used.update(dict.fromkeys(keys, step))
        gone = [last_used[int(name)] for name, _ in before if (name, 0) not in places]
        kept = [last_used[int(name)] for name, _ in before if (name, 0) in places]
        assert max(gone, default=-1) <= min(kept, default=step)


def _key(number: int) -> tuple[str, int]:
    return str(number), 0


def test_more_units_at_once_than_there_can_be_are_refused_and_the_others_stay() -> None:
    places = Places(8, most=8)
    places.place({("a", 0): 5})
    with pytest.raises(EngineError, match=r"takes 9 units .* memory for 8; ask for fewer presets"):
        places.place({("b", 0): 4, ("c", 0): 5})
    assert places[("a", 0)] == (0, 1, 2, 3, 4)
    assert places.place({("b", 0): 8})  # alone it has room; `a` gives way
    assert ("a", 0) not in places
