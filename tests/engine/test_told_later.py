"""What devices steer is accounted for some decodes later, each decode by what it has told itself.

The oracle is the node that steers in host memory, which tells at once.
"""

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from steerplug.engine import context as contexts
from steerplug.engine import ggml
from steerplug.engine.capture import Capture
from steerplug.engine.context import Context
from steerplug.engine.device_route import PAST
from steerplug.engine.effects import Effects
from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.model import Model
from steerplug.engine.routes import buffer_types
from steerplug.engine.rows import Row
from steerplug.errors import EngineError
from steerplug.steering.value import Delta, Mix, Steering
from tests.engine.test_device_route import mixes, new_context

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="only there are graphs replaced")

N = 40


@pytest.fixture
def device(tiny: Model) -> Iterator[Context]:
    context = new_context(tiny, on_device=True)
    yield context
    context.close()


@pytest.fixture
def partly(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """Every other block lies in host memory, where a node steers it; the first one does."""

    def of_some(*asked: Any, **settings: Any) -> list[int | None]:
        of_all = buffer_types(*asked, **settings)
        return [each if il % 2 else None for il, each in enumerate(of_all)]

    monkeypatch.setattr(contexts, "buffer_types", of_some)
    context = new_context(tiny, on_device=True)
    assert context.route == "device"
    yield context
    context.close()


@pytest.fixture
def node(tiny: Model) -> Iterator[Context]:
    context = new_context(tiny)
    yield context
    context.close()


def decode(
    context: Context, batches: Sequence[Sequence[RowSteering | None]]
) -> list[list[Effects]]:
    """Decode these batches of one token for each of some sequences; return what each one tells."""
    told = []
    for i, steering in enumerate(batches):
        rows = [Row(5 + i + 7 * s, i, True, what, s) for s, what in enumerate(steering)]
        context.hook.tells_later = True
        context.decode(rows)
        told.append(context.hook.untold())
    context.hook.settle()
    return [*told, context.hook.untold()]


def count_calls(context: Context) -> dict[str, int]:
    """Count from here on what the hook asks of devices itself."""
    assert context.hook.route is not None
    void, size = ctypes.c_void_p, ctypes.c_size_t
    counts, alive = {"get": 0, "set": 0, "wait": 0}, []

    def count(state: Any, field: str, name: str, what: str, *arguments: Any) -> None:
        kind = ctypes.CFUNCTYPE(None, *arguments)
        original = kind(ggml.address(name))

        def counting(*given: Any) -> None:
            counts[what] += 1
            original(*given)

        alive.append(kind(counting))
        setattr(state, field, ctypes.cast(alive[-1], void).value)

    copy = (void, void, size, size)
    count(context.hook._state, "tensor_get", "ggml_backend_tensor_get", "get", *copy)
    count(context.hook._state, "tensor_set", "ggml_backend_tensor_set", "set", *copy)
    count(context.hook.route.state, "llama_synchronize", "llama_synchronize", "wait", void)
    context.counting = alive  # type: ignore[attr-defined]
    return counts


@pytest.mark.parametrize("lies", ["device", "partly"])
def test_each_decode_is_accounted_for_as_by_the_node_whatever_changes_between_them(
    lies: str, node: Context, tiny: Model, request: pytest.FixtureRequest
) -> None:
    device = request.getfixturevalue(lies)
    a, b, c, d, none, e = (lay_out(mix) for mix in mixes(tiny))
    batches = [[a, b]] * N + [[c, b]] * 5 + [[c, none]] * 3 + [[none, none]] * 2 + [[d, e]] * PAST
    want = [effects for told in decode(node, batches) for effects in told]
    got = [effects for told in decode(device, batches) for effects in told]
    assert len(got) == len(want) == len(batches)
    for one, other in zip(got, want, strict=True):
        assert one.steered == other.steered
        np.testing.assert_allclose(one.moved, other.moved, rtol=1e-3)
    assert len({effects.moved[0] for effects in got}) > N  # no two decodes were one


def test_at_most_16_decodes_wait_to_be_accounted_for_and_none_that_is_not_like_the_last(
    device: Context, tiny: Model
) -> None:
    one, other, *_ = (lay_out(mix) for mix in mixes(tiny))
    told = decode(device, [[one]] * (2 * PAST + 3) + [[other]] * 2 + [[None]])
    assert [len(effects) for effects in told] == [
        1, *[0] * (PAST - 1), PAST, *[0] * (PAST - 1), PAST, *[0] * 2, 3, 0, 2, 0,
    ]  # fmt: skip


def test_a_decode_like_the_last_asks_the_devices_for_nothing(device: Context, tiny: Model) -> None:
    steered = [lay_out(mix) for mix in mixes(tiny)[:2]]
    decode(device, [steered] * 2)
    device.clear()
    counts = count_calls(device)
    decode(device, [steered] * PAST)
    assert counts == {"get": 1, "set": 1, "wait": 1}  # in front of all, and behind them


def test_captures_and_what_asks_to_know_at_once_come_between(
    device: Context, node: Context, tiny: Model
) -> None:
    what = lay_out(mixes(tiny)[1])
    captured, moved = [], []
    for context in (device, node):
        told: list[Effects] = []
        for i in range(12):
            capture = Capture([0, tiny.n_layer - 1], [0]) if i in (5, 6) else None
            context.hook.tells_later = i % 4 != 3
            array = context.decode([Row(5 + i, i, True, what)], capture)
            told += context.hook.untold()
            captured += [] if array is None else [array]
        context.hook.settle()
        moved.append([effects.moved[0] for effects in (*told, *context.hook.untold())])
    np.testing.assert_allclose(captured[:2], captured[2:], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-3)


def test_a_decode_of_which_nothing_was_told_is_an_error_later(device: Context, tiny: Model) -> None:
    what = [lay_out(mixes(tiny)[1])] * 2
    decode(device, [what] * 3)
    hook = device.hook
    hook.arm(what, [True] * 2)  # and nothing is decoded
    hook.disarm()
    hook.settle()
    (effects,) = hook.untold()
    assert "happened 0 times" in str(effects.error)
    assert effects.at_fault == [True, True]


def test_a_block_that_told_nothing_is_an_error_though_it_had_told_before(
    device: Context, tiny: Model
) -> None:
    what = [lay_out(mixes(tiny)[1])] * 2
    decode(device, [what] * 3)
    device.clear()
    route = device.hook.route
    assert route is not None
    kind = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 3)
    place, n_placed = kind(ggml.address("ggml_backend_tensor_alloc")), 0

    def place_but_the_fourth(*given: int) -> int:
        nonlocal n_placed
        n_placed += 1
        return int(place(*given)) if n_placed != 4 else 0  # |change|^2 of block 1

    planted = kind(place_but_the_fourth)
    route.state.ggml_backend_tensor_alloc = ctypes.cast(planted, ctypes.c_void_p).value
    route.build_anew()
    *_, (effects,) = decode(device, [what])
    assert "asked for 4 times and happened 2 times" in str(effects.error)


def gate_of_one(activations: np.ndarray, which: int, n_layer: int, size: float) -> Steering:
    """A gate at block 0 that only one of these activations opens, and then wide."""
    x = activations / np.sqrt((activations**2).mean(axis=1, keepdims=True))
    others = np.delete(x, which, axis=0)
    w = x[which] - others.mean(axis=0)
    b = -(w @ x[which] + (others @ w).max()) / 2
    assert (np.maximum(x @ w + b, 0) > 0).sum() == 1
    delta = Delta.gated(
        w[None].astype(np.float32), np.array([b], np.float32),
        np.full((1, x.shape[1]), size, np.float32),
    )  # fmt: skip
    return Steering("gate of one", x.shape[1], n_layer, {0: delta}, "all")


@pytest.fixture
def batches(node: Context, tiny: Model) -> list[list[RowSteering | None]]:
    """Two rows each; in the last of these, what steers the second makes it infinite at block 0."""
    captured = node.decode([Row(5 + i + 7, i, True) for i in range(12)], Capture([0], range(12)))
    assert captured is not None
    node.clear()
    good, bad = mixes(tiny)[1], Mix.of(gate_of_one(captured[0], 5, tiny.n_layer, 1e30))
    return [[lay_out(good), lay_out(bad)]] * 6


def test_an_activation_that_becomes_infinite_is_the_fault_of_its_row_alone(
    device: Context, node: Context, batches: list[list[RowSteering | None]]
) -> None:
    wanted = decode(node, [[good, None] for good, _ in batches])
    told = [effects for each in decode(device, batches) for effects in each]
    assert [effects.error is None for effects in told] == [True] * 5 + [False]
    assert "block 0 infinite" in str(told[5].error)
    assert told[5].at_fault == [False, True]
    for effects, (want,) in zip(told, wanted[:-1], strict=True):
        assert effects.moved[0] == pytest.approx(want.moved[0], rel=1e-3)


def test_where_a_node_fails_at_once_what_was_before_is_still_told(
    partly: Context, node: Context, batches: list[list[RowSteering | None]]
) -> None:
    wanted = decode(node, [[good, None] for good, _ in batches])
    (told, *_) = decode(partly, batches[:1])
    partly.clear()
    with pytest.raises(EngineError, match="block 0 infinite"):
        decode(partly, batches)
    told += partly.hook.untold()
    assert [effects.error for effects in told] == [None] * 6
    for effects, (want,) in zip(told[1:], wanted[:5], strict=True):
        assert effects.moved[0] == pytest.approx(want.moved[0], rel=1e-3)
