"""The algebra of steering: what people write as `0.8*pirate + concise - cheerful`."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from functools import reduce
from itertools import permutations
from operator import add
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerplug.errors import SteeringError, StrengthError
from steerplug.steering import NOTHING, Delta, Mix, Steering
from steerplug.steering.value import Term

N_EMBD, N_LAYER = 3, 4


def constant(seed: int, n_embd: int = N_EMBD, n_layer: int = N_LAYER) -> Steering:
    z = np.random.default_rng(seed).normal(size=n_embd).astype(np.float32)
    return Steering(f"s{seed}", n_embd, n_layer, {1: Delta.constant(z)})


def gate(seed: int, k: int = 2) -> Delta:
    rng = np.random.default_rng(seed)
    read, offsets, write = (
        rng.normal(size=shape).astype(np.float32) for shape in ((k, N_EMBD), (k,), (k, N_EMBD))
    )
    return Delta.gated(W=read, b=offsets, Z=write)


def with_array(delta: Delta, name: str, array: Any) -> Delta:
    changes: dict[str, Any] = {name: array}
    return replace(delta, **changes)


A, B, C = constant(1), constant(2), Steering("c", N_EMBD, N_LAYER, {0: gate(3), 3: gate(4)})
strengths = st.floats(-100, 100).filter(lambda x: abs(x) > 1e-6)


def said(mix: Mix) -> dict[str, float]:
    return {term.steering.name: term.strength for term in mix.terms}


def test_two_a_minus_b_says_so() -> None:
    assert said(2 * A - B) == {"s1": 2.0, "s2": -1.0}


def test_a_plus_b_has_each_at_strength_one() -> None:
    assert said(A + B) == {"s1": 1.0, "s2": 1.0}


@given(strengths)
def test_a_mix_minus_itself_is_nothing(x: float) -> None:
    mix = x * A + B
    assert mix - mix == NOTHING
    assert not mix - mix
    assert mix


def test_a_plus_minus_a_is_nothing() -> None:
    assert A + (-A) == NOTHING
    assert A - A == NOTHING


def test_zero_times_anything_is_nothing() -> None:
    assert 0 * A == NOTHING
    assert -0.0 * (A + B) == NOTHING
    assert 0 * A + B == 1 * B


@given(strengths)
def test_negation_is_minus_one_and_undoes_itself(x: float) -> None:
    assert said(-(x * A)) == {"s1": -x}
    negative = -(x * A)
    assert -negative == x * A


@given(strengths, strengths, strengths)
def test_a_mix_is_order_free(x: float, y: float, z: float) -> None:
    orders = [reduce(add, order) for order in permutations([x * A, y * B, z * C])]
    assert len({mix.digest for mix in orders}) == 1


@given(strengths, strengths)
def test_strengths_multiply_and_distribute(x: float, y: float) -> None:
    assert said(x * (y * A)) == {"s1": x * y}
    assert x * (A + B) == x * A + x * B


@given(strengths)
def test_the_digest_of_a_mix_changes_with_every_strength(x: float) -> None:
    assert (x * A).digest != (np.nextafter(x, np.inf) * A).digest
    assert (x * A).digest != (x * B).digest


def test_a_mix_has_one_term_for_equal_numbers_under_two_names() -> None:
    twin = Steering("twin", N_EMBD, N_LAYER, A.layers)
    assert said(A + twin) == {"s1": 2.0}


def test_equal_mixes_are_one_key_of_a_dict() -> None:
    assert len({A + B, B + A, 2 * A}) == 2


@pytest.mark.parametrize("number", [np.float64, np.float32, np.int64])
def test_numpy_scalars_on_the_left_are_numbers(number: Callable[[int], Any]) -> None:
    assert number(2) * A == 2 * A
    assert number(2) * (A + B) == 2 * (A + B)
    assert number(0) * A == NOTHING
    assert Mix((Term(number(2), A),)) == 2 * A


@pytest.mark.parametrize("mix", [A, A + B])
def test_an_array_of_strengths_is_not_a_strength(mix: Steering | Mix) -> None:
    with pytest.raises(TypeError):
        _ = np.array([1.0, 2.0]) * mix


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf")])
def test_a_strength_that_is_not_finite_is_refused(strength: float) -> None:
    with pytest.raises(StrengthError, match=r"strength of `s1` is .*give a finite number"):
        _ = strength * A


def test_a_strength_that_grows_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(StrengthError, match="`s1` is inf"):
        _ = 1e308 * A + 1e308 * A
    with pytest.raises(StrengthError, match="`s1` is inf"):
        _ = np.float64(1e308) * (100 * A)


@pytest.mark.parametrize("other", [constant(9, n_embd=5), constant(9, n_layer=7)])
def test_steerings_of_different_models_do_not_mix(other: Steering) -> None:
    with pytest.raises(SteeringError, match="different models do not mix"):
        _ = A + other


def test_values_cannot_be_changed() -> None:
    z = np.ones(N_EMBD, np.float32)
    steering = Steering("s", N_EMBD, N_LAYER, layers := {1: Delta.constant(z)})
    before = steering.digest
    z[:] = 7
    layers[2] = Delta.constant(z)
    assert Steering("s", N_EMBD, N_LAYER, steering.layers).digest == before
    with pytest.raises(ValueError, match="read-only"):
        steering.layers[1].z[0, 0] = 7
    with pytest.raises(TypeError):
        steering.layers[1] = Delta.constant(z)  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        steering.n_embd = 5  # type: ignore[misc]


def test_the_digest_changes_with_every_field_but_the_name() -> None:
    delta = gate(5)
    base = Steering("s", N_EMBD, N_LAYER, {1: delta})
    shifted = [with_array(delta, name, getattr(delta, name) + 1) for name in ("z", "W", "b", "Z")]
    others = [
        replace(base, n_layer=5),
        replace(base, scope="all"),
        replace(base, layers={2: delta}),
        replace(base, layers={1: delta, 2: delta}),
        replace(base, layers={1: replace(delta, act="identity")}),
        replace(base, layers={1: replace(delta, norm="none")}),
        *(replace(base, layers={1: other}) for other in shifted),
    ]
    digests = {base.digest, *(other.digest for other in others)}
    assert len(digests) == 1 + len(others)
    assert replace(base, name="other").digest == base.digest


def test_the_digest_changes_with_the_width() -> None:
    assert constant(1, n_embd=3).digest != constant(1, n_embd=4).digest


def test_the_three_kinds_have_the_shapes_of_the_equation() -> None:
    w, b = np.ones((2, N_EMBD), np.float32), np.ones(2, np.float32)
    assert Delta.constant(w[0]).n_units == 0
    assert Delta.constant(w).z.shape == (2, N_EMBD)
    gated = Delta.gated(w, b, w)
    assert (gated.n_units, gated.act, gated.norm) == (2, "relu", "rms")
    assert gated.z.tolist() == [[0, 0, 0]]
    affine = Delta.affine(w[0], w, b, w)
    assert (affine.n_units, affine.act, affine.norm) == (2, "identity", "none")
    assert affine.z.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("z", (N_EMBD,), "z has shape"),
        ("z", (0, N_EMBD), "z has shape"),
        ("z", (1, 0), "z has shape"),
        ("z", (1, 2), "W has shape"),
        ("W", (1, N_EMBD), "W has shape"),
        ("W", (N_EMBD,), "W has shape"),
        ("b", (), "W has shape"),
        ("b", (1,), "W has shape"),
        ("b", (2, 1), "b has shape"),
        ("Z", (2, N_EMBD + 1), "Z has shape"),
    ],
)
def test_shapes_that_disagree_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        with_array(gate(1), name, np.zeros(shape, np.float32))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", ["z", "W", "b", "Z"])
def test_numbers_that_are_not_finite_are_refused(name: str, number: float) -> None:
    array = np.array(getattr(gate(1), name), np.float64)
    array[-1] = number
    with pytest.raises(SteeringError, match=f"^{name} holds a number that is not finite"):
        with_array(gate(1), name, array)


def test_unknown_operations_and_scopes_are_refused() -> None:
    with pytest.raises(SteeringError, match="act is `gelu`"):
        replace(gate(1), act="gelu")  # type: ignore[arg-type]
    with pytest.raises(SteeringError, match="norm is `layer`"):
        replace(gate(1), norm="layer")  # type: ignore[arg-type]
    with pytest.raises(SteeringError, match="`s1` has scope `user`"):
        replace(A, scope="user")  # type: ignore[arg-type]


def test_blocks_the_model_does_not_have_are_refused() -> None:
    for il in (-1, N_LAYER):
        with pytest.raises(SteeringError, match=f"steers block {il}, .* blocks 0 to 3"):
            replace(A, layers={il: A.layers[1]})
    with pytest.raises(SteeringError, match="steers no block"):
        replace(A, layers={})
    with pytest.raises(SteeringError, match=r"has 3 values at block 1, .* expects 8"):
        replace(A, n_embd=8)


def test_only_the_front_has_positions_and_every_block_the_same_number() -> None:
    two, one = (Delta.constant(np.ones((n, N_EMBD), np.float32)) for n in (2, 1))
    assert Steering("f", N_EMBD, N_LAYER, {1: two, 2: two}, scope="front").n_positions == 2
    with pytest.raises(SteeringError, match=r"has \[2\] positions in scope `response`"):
        Steering("f", N_EMBD, N_LAYER, {1: two})
    with pytest.raises(SteeringError, match=r"has \[1, 2\] positions in scope `front`"):
        Steering("f", N_EMBD, N_LAYER, {1: two, 2: one}, scope="front")
