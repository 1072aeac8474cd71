"""Steering by operations of the graph, computed by the CPU as any other device would.

The oracles are the NumPy twin, and the node that steers in host memory.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from steerplug.engine import context as contexts
from steerplug.engine import device_route, device_units
from steerplug.engine.capture import Capture
from steerplug.engine.context import Context
from steerplug.engine.device_memory import DeviceFullError, DeviceMemory
from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.loading import Loading
from steerplug.engine.model import Model
from steerplug.engine.reference import steer_row
from steerplug.engine.rows import Row
from steerplug.engine.units import FEWEST
from steerplug.errors import EngineError
from steerplug.steering.value import Array, Delta, Mix, Steering
from tests.engine.test_hook_in_llama import a_constant, a_gate, relative, same_bits
from tests.engine.test_native_hook import a_delta
from tests.helpers.tiny_models import tiny_model

# isort: split
from llama_cpp import llama_cpp as llama

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="only there are graphs replaced")

N_ROWS = 9
SETTINGS = {"n_ctx": 512, "n_batch": 128, "n_seq": 2, "n_threads": 1}


def new_context(model: Model, **settings: object) -> Context:
    return Context(model, **(SETTINGS | settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def _shared(tiny: Model) -> Iterator[tuple[Context, Context]]:
    device, node = new_context(tiny, on_device=True), new_context(tiny)
    yield device, node
    device.close()
    node.close()


@pytest.fixture
def device(_shared: tuple[Context, Context]) -> Context:
    _shared[0].clear()
    return _shared[0]


@pytest.fixture
def node(_shared: tuple[Context, Context]) -> Context:
    _shared[1].clear()
    return _shared[1]


def one_of_each(model: Model, seed: int = 0) -> list[Steering]:
    """A steering of each form a delta can have, at some blocks, small enough to leave sense."""
    made = []
    kinds = ("constant", "gated", "affine", "relu none", "identity rms")
    for i, kind in enumerate(kinds):
        rng = np.random.default_rng(10 * seed + i)
        deltas = {}
        for il in sorted({i % model.n_layer, model.n_layer - 1}):
            d = a_delta(kind, model.n_embd, 2, rng)
            W, Z, z = 0.1 * d.W, 0.05 * d.Z, 0.05 * d.z
            deltas[il] = Delta(z=z, W=W, b=d.b, Z=Z, act=d.act, norm=d.norm)
        made.append(Steering(kind, model.n_embd, model.n_layer, deltas, "all"))
    return made


def mixes(model: Model) -> list[Mix]:
    constant, gated, affine, relu, identity = one_of_each(model)
    return [
        1.0 * constant, 0.7 * gated, -1.0 * affine, 0.5 * relu + 0.5 * identity, Mix(),
        0.3 * constant + 0.3 * gated - 0.3 * affine + 0.2 * relu - 0.2 * identity,
    ]  # fmt: skip


def decode(
    context: Context, steering: Sequence[RowSteering | None], outputs: Sequence[int] | None = None,
    capture: Capture | None = None,
) -> tuple[Array, Array | None]:  # fmt: skip
    """Decode rows anew, as many as are steered; return logits, of some rows, and what is caught."""
    context.clear()
    asked = range(len(steering)) if outputs is None else outputs
    rows = [Row(5 + i, i, i in asked, what) for i, what in enumerate(steering)]
    captured = context.decode(rows, capture)
    return np.stack([context.logits(i) for i in asked]), captured


def n_reused(context: Context) -> int:
    return int(llama.llama_perf_context(context.handle).n_reused)


def test_every_form_of_a_delta_does_to_real_activations_what_the_twin_does(
    device: Context, tiny: Model
) -> None:
    everything = Capture(range(tiny.n_layer), range(N_ROWS))
    _, before = decode(device, [None] * N_ROWS, capture=everything)
    assert before is not None
    for steering in one_of_each(tiny):
        il = min(steering.layers)
        _, after = decode(device, [lay_out(-0.8 * steering)] * N_ROWS, capture=everything)
        assert after is not None
        assert same_bits(after[:il], before[:il])
        for h, got in zip(before[il], after[il], strict=True):
            want = steer_row(h, (-0.8 * steering).terms, il)
            assert relative(got - h, want - h) < 1e-4, steering.name


@pytest.mark.parametrize("outputs", [None, (2, 5), (8,), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_rows_of_a_batch_with_mixes_of_their_own_are_steered_as_by_the_node(
    device: Context, node: Context, tiny: Model, outputs: Sequence[int] | None
) -> None:
    asked = [lay_out(mix) for mix in mixes(tiny)]
    steering = [asked[(i * i + 1) % len(asked)] for i in range(N_ROWS)]  # no two orders alike
    rows = [8] if outputs == (8,) else [2, 5]
    wanted = Capture([tiny.n_layer - 1, 0], rows)
    got, captured = decode(device, steering, outputs, wanted)
    want, wanted_captured = decode(node, steering, outputs, wanted)
    assert relative(got, want) < 1e-5
    assert captured is not None
    assert wanted_captured is not None
    assert relative(captured, wanted_captured) < 1e-5
    assert device.hook.applied == node.hook.applied > 0
    assert device.hook.effects()[1] == node.hook.effects()[1]
    np.testing.assert_allclose(device.hook.effects()[0], node.hook.effects()[0], rtol=1e-3)


def test_what_nobody_steers_keeps_every_bit_whatever_lies_on_the_device(
    device: Context, tiny: Model
) -> None:
    bare = new_context(tiny, hooked=False)
    plain, _ = decode(bare, [None] * N_ROWS)
    bare.close()
    asked = [lay_out(mix) for mix in mixes(tiny)]
    steered, _ = decode(device, [asked[i % len(asked)] for i in range(N_ROWS)])
    assert not same_bits(steered, plain)
    assert same_bits(decode(device, [None] * N_ROWS)[0], plain)
    zero = lay_out(0.0 * one_of_each(tiny)[0])
    assert same_bits(decode(device, [zero] * N_ROWS)[0], plain)
    beside, _ = decode(device, [*[None] * (N_ROWS - 1), asked[0]])
    assert same_bits(beside[:-1], plain[:-1])
    assert not same_bits(beside[-1], plain[-1])
    shut = lay_out(2.0 * a_gate(tiny, offset=-1e4))
    assert same_bits(decode(device, [shut] * N_ROWS)[0], plain)
    assert device.hook.applied == N_ROWS * tiny.n_layer


def test_presets_and_strengths_change_from_token_to_token_within_one_graph(
    device: Context, node: Context, tiny: Model
) -> None:
    constant, gated, *_ = one_of_each(tiny)
    device.decode([Row(1, 0, True, lay_out(constant + gated))])
    node.decode([Row(1, 0, True, lay_out(constant + gated))])
    before = n_reused(device)
    for i in range(1, 9):
        what = lay_out((0.1 * i) * (constant if i % 3 else gated)) if i % 4 else None
        logits = []
        for context in (device, node):
            context.decode([Row(7 + i, i, True, what)])
            logits.append(context.logits(0))
        assert relative(*logits) < 1e-5
    assert n_reused(device) == before + 8


def test_more_presets_than_places_find_room_and_those_that_gave_way_come_back(
    tiny: Model, node: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerplug.engine.units.KEPT", FEWEST)
    device = new_context(tiny, on_device=True)
    gates = [lay_out(Mix.of(a_gate(tiny, seed=seed))) for seed in range(6)]  # of two units each
    for batch in ([0], [1, 2], [3], [4], [0], [5], [1], range(6), [2]):
        steering = [gates[i] for i in batch]
        assert relative(decode(device, steering)[0], decode(node, steering)[0]) < 1e-5, batch
    device.close()


def test_where_the_device_is_full_what_gives_way_makes_room_and_too_much_is_one_sentence(
    tiny: Model, node: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(DeviceMemory):
        def __init__(self, buffer_type: int, shapes: Sequence[tuple[int, ...]]) -> None:
            if shapes[-1][0] > FEWEST:
                raise DeviceFullError("the device has no memory for 9 MB of steering; ...")
            super().__init__(buffer_type, shapes)

    monkeypatch.setattr(device_units, "DeviceMemory", Small)
    device = new_context(tiny, on_device=True)
    gates = [lay_out(Mix.of(a_gate(tiny, seed=seed))) for seed in range(6)]
    for batch in ([0], [1, 2, 3], [4], [5], [0, 5]):
        steering = [gates[i] for i in batch]
        assert relative(decode(device, steering)[0], decode(node, steering)[0]) < 1e-5, batch
    with pytest.raises(EngineError, match=r"takes 12 units .* memory for 8; ask for fewer"):
        decode(device, gates)
    assert relative(decode(device, gates[:4])[0], decode(node, gates[:4])[0]) < 1e-5
    device.close()


def test_where_there_is_no_room_for_another_kind_of_unit_the_request_is_refused_and_no_other(
    tiny: Model, node: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = new_context(tiny, on_device=True)
    gated = [lay_out(Mix.of(a_gate(tiny)))]
    decode(device, gated)

    def full(*_: object, **__: object) -> None:
        raise DeviceFullError("the device has no memory for 1 MB of steering; give it less.")

    with monkeypatch.context() as patch:
        patch.setattr(device_units, "DeviceMemory", full)
        with pytest.raises(EngineError, match="no memory for 1 MB"):
            decode(device, [lay_out(1.0 * one_of_each(tiny)[2])])
    assert relative(decode(device, gated)[0], decode(node, gated)[0]) < 1e-5
    device.close()


def test_a_device_that_has_no_room_at_all_leaves_steering_to_the_callback(
    tiny: Model, node: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise DeviceFullError("the device has no memory for 1 MB of steering; give it less.")

    monkeypatch.setattr(device_units, "DeviceMemory", full)
    context = new_context(tiny, on_device=True, on_host=False)
    check_callback(context, node, tiny, "no memory for 1 MB")


def test_a_device_that_has_room_for_a_part_of_it_alone_is_given_that_back(
    tiny: Model, node: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[DeviceMemory] = []

    class Small(DeviceMemory):
        def __init__(self, *asked: Any, **settings: Any) -> None:
            if len(made) == 3:
                raise DeviceFullError("the device has no memory for 1 MB of steering; give it less")
            super().__init__(*asked, **settings)
            made.append(self)

    for module in (device_units, device_route):
        monkeypatch.setattr(module, "DeviceMemory", Small)
    context = new_context(tiny, on_device=True, on_host=False)
    assert [memory.buffer for memory in made] == [None] * 3
    check_callback(context, node, tiny, "no memory for 1 MB")


def test_a_build_that_does_not_tell_where_blocks_lie_leaves_steering_to_the_callback(
    tiny: Model, node: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> list[int | None]:
        raise EngineError("this build of llama-cpp-python does not export `dev_layer`; ...")

    monkeypatch.setattr(contexts, "buffer_types", unknown)
    context = new_context(tiny, on_device=True, on_host=False)
    check_callback(context, node, tiny, "does not export")


def check_callback(context: Context, node: Context, model: Model, why: str) -> None:
    assert context.route == "callback"
    assert why in context.why
    steering = [lay_out(mix) for mix in mixes(model)]
    assert same_bits(decode(context, steering)[0], decode(node, steering)[0])
    context.close()


def test_steering_that_is_in_no_graph_is_an_error(tiny: Model) -> None:
    device = new_context(tiny, on_device=True)
    steered = [lay_out(1.0 * a_constant(tiny, 1))] * 2
    decode(device, steered)
    device.hook.in_graph = False  # graphs are built without steering from here on
    with pytest.raises(EngineError, match="hands out 2 rows for a batch of 3"):
        decode(device, [steered[0]] * 3)
    decode(device, [None] * 2)
    with pytest.raises(EngineError, match="asked for 2 times and happened 0 times"):
        decode(device, steered)
    assert device.hook.route is not None
    device.hook.route.build_anew()
    with pytest.raises(EngineError, match="went on with its last graph"):
        decode(device, steered)
    device.close()


@pytest.mark.parametrize("strength", [1e30, -1e300])
def test_an_infinite_activation_is_an_error_and_the_context_works_afterwards(
    device: Context, tiny: Model, strength: float
) -> None:
    bare, _ = decode(device, [None] * N_ROWS)
    with pytest.raises(EngineError, match=r"block 2 infinite; choose a smaller strength\.$"):
        decode(device, [None, lay_out(strength * a_constant(tiny, 2, size=1e20))])
    assert same_bits(decode(device, [None] * N_ROWS)[0], bare)


@pytest.mark.parametrize("on_device", [True, False])
def test_what_becomes_infinite_is_left_in_no_cell(on_device: bool) -> None:
    """Without flash attention a processor weighs masked cells by zero, as other devices do."""
    model = Model(tiny_model("llama"), Loading(flash_attn="off"))
    context = new_context(model, on_device=on_device)
    bare, _ = decode(context, [None] * 3)
    for mix in (1e30 * a_constant(model, 1, size=1e20), 1e30 * a_gate(model, 1),
                1e30 * a_gate(model, 1) - 1e30 * a_constant(model, 1, size=1e20)):  # fmt: skip
        context.keep(0, 0)
        with pytest.raises(EngineError, match="infinite"):
            context.decode([Row(9, i, True, lay_out(mix)) for i in range(6)])
        context.keep(0, 0)
        context.decode([Row(5 + i, i, True) for i in range(3)])
        assert relative(np.stack([context.logits(i) for i in range(3)]), bare) < 1e-5
    context.close()
    model.close()


def test_captures_of_more_and_of_other_blocks_follow_each_other(
    device: Context, node: Context, tiny: Model
) -> None:
    what = [lay_out(mix) for mix in mixes(tiny)]
    for layers, n_rows in (((0,), 2), ((2, 1), 2), ((0,), 2), (range(tiny.n_layer), 6), ((1,), 6)):
        capture = Capture(layers, range(n_rows), only=len(layers) == 1)
        got, want = (decode(c, what[:n_rows], capture=capture)[1] for c in (device, node))
        assert got is not None
        assert want is not None
        assert relative(got, want) < 1e-5


def test_a_refused_batch_is_not_blamed_on_steering(device: Context, tiny: Model) -> None:
    with pytest.raises(EngineError, match=r"could not decode 1 tokens .*invalid token"):
        device.decode([Row(10**6, 0, True, lay_out(1.0 * a_constant(tiny, 1)))])
