"""The native hook against its NumPy twin, and alone against tensors that only look like ggml's."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerplug.engine.block_output import BlockOutput
from steerplug.engine.capture import Capture
from steerplug.engine.hook import Hook, lay_out
from steerplug.engine.hook_state import TERM
from steerplug.engine.native import library
from steerplug.engine.reference import steer_row
from steerplug.errors import EngineError, SteeringError
from steerplug.steering.value import Array, Delta, Mix, Steering, Term

WIDTHS = (1, 15, 16, 17, 31, 33, 576, 4095)
KINDS = ("constant", "gated", "affine", "relu none", "identity rms")
N_LAYER = 6
EPS = float(np.finfo(np.float32).eps)


def a_delta(kind: str, n_embd: int, k: int, rng: np.random.Generator) -> Delta:
    z, W, b, Z = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((1, n_embd), (k, n_embd), (k,), (k, n_embd))
    )
    if kind == "constant":
        return Delta.constant(z)
    if kind == "gated":
        return Delta.gated(W, b, Z)
    if kind == "affine":
        return Delta.affine(z, W, b, Z)
    if kind == "relu none":
        return Delta(z=z, W=W, b=b, Z=Z, act="relu", norm="none")
    return Delta(z=z, W=W, b=b, Z=Z, act="identity", norm="rms")


def at_block(delta: Delta, il: int = 0, name: str = "planted") -> Steering:
    return Steering(name, delta.z.shape[1], N_LAYER, {il: delta})


def native_row(h: Array, mix: Mix, il: int = 0) -> tuple[Array, float]:
    """Steer a copy of `h` in C; return it and how far it was moved."""
    function = library().sp_steer_row
    function.restype = ctypes.c_float
    function.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p,
        ctypes.c_int32,
    ]  # fmt: skip
    row_steering = lay_out(mix)
    terms = np.array(list(row_steering.terms) if row_steering else [], TERM)
    row, scratch = h.copy(), np.full_like(h, np.nan)
    moved = function(
        row.ctypes.data, terms.ctypes.data, len(terms), il, scratch.ctypes.data, len(h)
    )
    return row, moved


def rounding(h: Array, terms: Sequence[Term]) -> Array:
    """How far two orders of summation may differ, element by element: a bound on each sum's terms.

    A dot product of n terms in 16 lanes is off by at most about n / 16 + 16 roundings of the sum of
    its terms' sizes.
    """
    h64, n = np.abs(h.astype(np.float64)), len(h)
    rms = float(np.sqrt(np.mean(h64**2))) or 1.0
    size = h64.copy()
    for term in terms:
        for d in term.steering.layers.values():
            read = np.abs(d.W.astype(np.float64)) @ h64 / (rms if d.norm == "rms" else 1.0)
            written = (read + np.abs(d.b)) @ np.abs(d.Z.astype(np.float64))
            size += abs(term.strength) * (np.abs(d.z[0]) + written)
    return np.asarray(size * EPS * (n / 16 + 24), np.float32)


def same_bits(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()


def rows_of(n_rows: int, n_embd: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((n_rows, n_embd)).astype(np.float32)


# One row


@pytest.mark.parametrize("n_embd", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_equals_the_twin_at_odd_widths_and_all_ranks(kind: str, n_embd: int) -> None:
    rng = np.random.default_rng(n_embd)
    for k in range(6):
        h = rng.standard_normal(n_embd).astype(np.float32)
        for strength in (1.0, -0.7):
            mix = strength * at_block(a_delta(kind, n_embd, k, rng))
            row, moved = native_row(h, mix)
            want = steer_row(h, mix.terms, 0)
            assert np.all(np.abs(row - want) <= rounding(h, mix.terms)), (kind, k, strength)
            change = np.linalg.norm(want - h) / np.linalg.norm(h)
            assert moved == pytest.approx(change, rel=1e-3, abs=1e-6)
            if kind in ("constant", "affine"):
                assert not same_bits(row, h)


@given(
    n_embd=st.sampled_from(WIDTHS[:-1]),
    terms=st.lists(
        st.tuples(
            st.sampled_from(KINDS), st.integers(0, 5), st.floats(-8, 8, width=32, allow_nan=False)
        ),
        min_size=1,
        max_size=4,
    ),
    scale=st.sampled_from((0.0, 1e-3, 1.0, 300.0)),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_any_mix_of_kinds_equals_the_twin(
    n_embd: int, terms: list[tuple[str, int, float]], scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    h = (scale * rng.standard_normal(n_embd)).astype(np.float32)
    mix = Mix(tuple(
        Term(strength, at_block(a_delta(kind, n_embd, k, rng), name=f"term {i}"))
        for i, (kind, k, strength) in enumerate(terms)
    ))
    row, moved = native_row(h, mix)
    assert np.isfinite(moved)
    assert np.all(np.abs(row - steer_row(h, mix.terms, 0)) <= rounding(h, mix.terms))


@pytest.mark.parametrize("n_embd", WIDTHS)
def test_one_constant_is_added_exactly(n_embd: int) -> None:
    z, h = rows_of(2, n_embd, seed=3)
    for strength in (1.0, -2.5, 0.1):
        row, _ = native_row(h, strength * at_block(Delta.constant(z)))
        assert same_bits(row, h + np.float32(strength) * z)
        assert same_bits(row, steer_row(h, Mix.of(strength * at_block(Delta.constant(z))).terms, 0))


@pytest.mark.parametrize("n_embd", WIDTHS)
def test_a_closed_gate_leaves_every_bit_of_the_row(n_embd: int) -> None:
    W, Z = rows_of(2, n_embd, seed=4)
    shut = at_block(Delta.gated(W[None], np.full(1, -1e4, np.float32), Z[None]))
    for h in (rows_of(1, n_embd, seed=5)[0], np.full(n_embd, -0.0, np.float32)):
        row, moved = native_row(h, 2.0 * shut)
        assert same_bits(row, h)
        assert moved == 0.0


def test_a_row_of_zeros_meets_a_gate_with_its_offset_alone() -> None:
    W, Z = rows_of(2, 33, seed=6)
    steering = at_block(Delta.gated(W[None], np.full(1, 0.5, np.float32), Z[None]))
    row, moved = native_row(np.zeros(33, np.float32), 2.0 * steering)
    assert same_bits(row, np.float32(2.0 * 0.5) * Z)
    assert np.isfinite(moved)


@pytest.mark.parametrize("size", [1e-20, 1e-22, 3e-23, 1e-30, 1e-44])
def test_a_vanishing_row_never_becomes_infinite(size: float) -> None:
    W, Z = np.abs(rows_of(2, 576, seed=7))  # the gate must open
    h = np.zeros(576, np.float32)
    h[3] = size
    steering = at_block(Delta.gated(W[None], np.full(1, 0.5, np.float32), Z[None]))
    row, moved = native_row(h, Mix.of(steering))
    assert np.isfinite(row).all()
    assert np.isfinite(moved)
    assert np.isfinite(steer_row(h, Mix.of(steering).terms, 0)).all()


def test_deltas_of_a_mix_read_the_same_row_so_their_order_does_not_matter() -> None:
    rng = np.random.default_rng(8)
    h = rng.standard_normal(64).astype(np.float32)
    affine, gated = (at_block(a_delta(kind, 64, 3, rng)) for kind in ("affine", "gated"))
    both = native_row(h, 1.5 * affine + 0.5 * gated)[0] - h
    alone = [native_row(h, mix)[0] - h for mix in (1.5 * affine, 0.5 * gated)]
    np.testing.assert_allclose(both, alone[0] + alone[1], rtol=1e-4, atol=1e-4)


def test_other_blocks_of_a_steering_are_left_alone() -> None:
    h, z = rows_of(2, 17, seed=9)
    row, moved = native_row(h, Mix.of(at_block(Delta.constant(z), il=2)), il=1)
    assert same_bits(row, h)
    assert moved == 0.0


# The callback, driven as ggml's scheduler drives it, over tensors made of NumPy arrays


@dataclass
class FakeTensor:
    name: bytes
    data: Array
    nbytes: int
    nelements: int


class FakeGgml:
    """Stands in for the six functions of ggml that the hook calls, over a NumPy buffer."""

    def __init__(self, hook: Hook, *, on_host: bool) -> None:
        self.hook, self.called = hook, [""]
        self.copied: list[tuple[str, int, int]] = []
        hook.in_graph = False
        self.tensor = FakeTensor(b"", np.zeros(0, np.float32), 0, 0)
        self.name = ctypes.create_string_buffer(64)
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self.functions: dict[str, object] = {}

        def fake(name: str, result: object, *arguments: object) -> Callable[..., None]:
            def keep(function: Callable[..., object]) -> None:
                def called(*values: object) -> object:
                    self.called.append(name)
                    return function(*values)

                self.functions[name] = ctypes.CFUNCTYPE(result, *arguments)(called)  # type: ignore[arg-type]

            return keep

        def at(offset: int) -> int:
            return self.tensor.data.ctypes.data + offset

        fake("get_name", pointer, pointer)(lambda _: ctypes.addressof(self.name))
        fake("nelements", ctypes.c_int64, pointer)(lambda _: self.tensor.nelements)
        fake("nbytes", size, pointer)(lambda _: self.tensor.nbytes)
        fake("get_data", pointer, pointer)(lambda _: at(0) if on_host else None)
        def copy(name: str, target: int, source: int, offset: int, n: int) -> None:
            self.copied.append((name, offset, n))
            ctypes.memmove(target, source, n)

        fake("tensor_get", None, pointer, pointer, size, size)(
            lambda _, target, offset, n: copy("get", target, at(offset), offset, n))
        fake("tensor_set", None, pointer, pointer, size, size)(
            lambda _, source, offset, n: copy("set", at(offset), source, offset, n))
        for name, function in self.functions.items():
            setattr(hook._state, name, ctypes.cast(function, pointer).value)  # type: ignore[arg-type]
        self.evaluate = library().sp_eval
        self.evaluate.argtypes = [pointer, ctypes.c_bool, pointer]
        self.evaluate.restype = ctypes.c_bool

    def asks_for(self, name: str) -> bool:
        """Whether the hook wants to see the tensor of this name."""
        self.name.value = name.encode()
        return bool(self.evaluate(1, True, self.hook.user_data))

    def hands_over(
        self, name: str, data: Array, nbytes: int | None = None, nelements: int | None = None
    ) -> bool:
        """Hand over a computed tensor; returns whether the run may go on."""
        self.name.value = name.encode()
        self.tensor = FakeTensor(
            name.encode(), data, data.nbytes if nbytes is None else nbytes,
            data.size if nelements is None else nelements,
        )
        return bool(self.evaluate(1, False, self.hook.user_data))

    def run(self, blocks: Sequence[Array]) -> bool:
        """A whole graph: blocks with other tensors in between; False if it was called off."""
        for il, data in enumerate(blocks):
            for name in (f"ffn_out-{il}", f"l_out-{il} (view)"):
                assert not self.asks_for(name)
            if self.asks_for(f"l_out-{il}") and not self.hands_over(f"l_out-{il}", data):
                return False
        return True


def void(_: object) -> None:
    """C functions that return nothing."""


memory_kinds = pytest.mark.parametrize("on_host", [True, False], ids=["host", "get and set"])


def fake_hook(n_embd: int, max_rows: int, *, on_host: bool) -> tuple[Hook, FakeGgml]:
    hook = Hook(n_embd, N_LAYER, max_rows, on_host=on_host)
    return hook, FakeGgml(hook, on_host=on_host)


def three_sequences(n_embd: int, seed: int = 11) -> list[Mix]:
    """What three requests of one batch might ask for: a mix, nothing, one constant, backwards."""
    rng = np.random.default_rng(seed)
    everywhere = Steering(
        "everywhere", n_embd, N_LAYER,
        {il: a_delta("gated", n_embd, 2, rng) for il in range(N_LAYER)},
    )
    some = Steering(
        "some", n_embd, N_LAYER, {il: a_delta("affine", n_embd, 3, rng) for il in (1, 5)}
    )
    constant = Steering(
        "constant", n_embd, N_LAYER, {il: a_delta("constant", n_embd, 0, rng) for il in (2, 5)}
    )
    return [0.8 * everywhere + 0.3 * some, Mix(), -1.5 * constant]


@memory_kinds
@pytest.mark.parametrize(("n_embd", "n_rows"), [(1, 1), (17, 5), (33, 1), (576, 12), (64, 100)])
def test_each_row_of_a_batch_gets_its_own_steering_at_its_own_strength(
    n_embd: int, n_rows: int, on_host: bool
) -> None:
    hook, fake = fake_hook(n_embd, n_rows, on_host=on_host)
    mixes = three_sequences(n_embd)
    rows = [(0.5 + 0.1 * row) * mixes[row % 3] for row in range(n_rows)]
    before = [rows_of(n_rows, n_embd, seed=100 + il) for il in range(N_LAYER)]
    after = [data.copy() for data in before]

    hook.arm([lay_out(mix) for mix in rows], [True] * n_rows)
    assert fake.run(after)
    hook.disarm()

    moved = np.zeros(n_rows)
    for il in range(N_LAYER):
        for row, mix in enumerate(rows):
            h = before[il][row]
            if not any(il in term.steering.layers for term in mix.terms):
                assert same_bits(after[il][row], h)
                continue
            want = steer_row(h, mix.terms, il)
            assert np.all(np.abs(after[il][row] - want) <= rounding(h, mix.terms))
            moved[row] += np.linalg.norm(want - h) / np.linalg.norm(h)
    np.testing.assert_allclose(hook.effects()[0], moved, rtol=1e-3, atol=1e-6)
    expected = sum(il in {i for t in mix.terms for i in t.steering.layers}
                   for mix in rows for il in range(N_LAYER))
    assert hook.applied == expected
    forbidden = {"tensor_get", "tensor_set"} if on_host else {"get_data"}
    assert not forbidden & set(fake.called)


@memory_kinds
def test_a_last_block_of_output_rows_only_is_matched_to_the_right_rows(on_host: bool) -> None:
    n_embd, n_rows = 33, 7
    hook, fake = fake_hook(n_embd, n_rows, on_host=on_host)
    mixes = three_sequences(n_embd)
    rows = [(1.0 + row) * mixes[row % 3] for row in range(n_rows)]
    outputs = [row in (1, 2, 5) for row in range(n_rows)]
    before = rows_of(3, n_embd, seed=12)
    blocks = [rows_of(n_rows, n_embd, seed=il) for il in range(N_LAYER - 1)] + [before.copy()]

    captured = hook.arm(
        [lay_out(mix) for mix in rows], outputs, Capture([N_LAYER - 1, 0], [5, 1])
    )
    assert captured is not None
    assert fake.run(blocks)
    hook.disarm()

    for place, row in enumerate((1, 2, 5)):
        want = steer_row(before[place], rows[row].terms, N_LAYER - 1)
        bound = rounding(before[place], rows[row].terms)
        assert np.all(np.abs(blocks[-1][place] - want) <= bound)
    assert same_bits(blocks[-1][0], before[0])  # row 1 asks for nothing
    assert same_bits(captured[0], blocks[-1][[2, 0]])
    assert same_bits(captured[1], blocks[0][[5, 1]])


@memory_kinds
@pytest.mark.parametrize("mean", [False, True], ids=["first", "mean"])
@pytest.mark.parametrize("n_found", [5, 2], ids=["all rows", "outputs only"])
def test_what_steers_h_is_added_to_every_stream_of_a_row(
    mean: bool, n_found: int, on_host: bool
) -> None:
    n_embd, n_rows, n_streams, last = 17, 5, 4, N_LAYER - 1
    output = BlockOutput("streams", n_streams, mean)
    hook = Hook(n_embd, N_LAYER, n_rows, on_host=on_host, output=output)
    fake = FakeGgml(hook, on_host=on_host)
    mixes = three_sequences(n_embd)
    rows = [mixes[2], mixes[1], mixes[0], mixes[1], mixes[0]]
    outputs = [n_found == n_rows or row in (2, 3) for row in range(n_rows)]
    found = [row for row in range(n_rows) if outputs[row]]
    before = rows_of(n_streams * n_found, n_embd, seed=3).reshape(n_streams, n_found, n_embd)
    data = (before.swapaxes(0, 1) if mean else before).copy("C")

    captured = hook.arm([lay_out(mix) for mix in rows], outputs, Capture([last], found))
    assert captured is not None
    assert fake.asks_for(f"streams-{last}")
    assert not fake.asks_for(f"l_out-{last}")
    assert fake.hands_over(f"streams-{last}", data)
    hook._end(hook._reference, True)

    after = data.swapaxes(0, 1) if mean else data
    for place, row in enumerate(found):
        h = before[:, place].mean(0) if mean else before[0, place]
        want = steer_row(h, rows[row].terms, last)
        bound = 4 * rounding(np.abs(before[:, place]).max(0), rows[row].terms)
        assert np.all(np.abs(captured[0, place] - want) <= bound)
        assert np.all(np.abs(after[:, place] - before[:, place] - (want - h)) <= bound)
        if not rows[row].terms:
            assert same_bits(after[:, place], before[:, place])


@memory_kinds
def test_a_batch_with_no_outputs_may_have_an_empty_last_block(on_host: bool) -> None:
    hook, fake = fake_hook(8, 4, on_host=on_host)
    mix = three_sequences(8)[0]
    blocks = [rows_of(4, 8, seed=il) for il in range(N_LAYER - 1)] + [np.zeros((0, 8), np.float32)]
    hook.arm([lay_out(mix)] * 4, [False] * 4)
    assert fake.run(blocks)
    hook.disarm()
    assert hook.applied == 4 * (N_LAYER - 1)


@pytest.mark.parametrize(
    "name",
    ["l_out-3 (view)", "l_out-", "l_out-99999999999", "l_out-3#0", "l_out--1", "l_out-4294967299",
     f"l_out-{N_LAYER}", "l_out", "", "l_out-3 ", "xl_out-3", "l_out-0x3", "ffn_out-3"],
)  # fmt: skip
def test_names_that_only_resemble_a_block_are_not_touched(name: str) -> None:
    hook, fake = fake_hook(8, 2, on_host=True)
    hook.arm([None, None], [True, True], watch_all=True)
    before = rows_of(2, 8, seed=13)
    after = before.copy()
    assert not fake.asks_for(name)
    assert fake.hands_over(name, after)  # ggml may still hand it over with its neighbours
    hook.disarm()
    assert same_bits(after, before)
    assert not hook.seen.any()


def test_only_blocks_with_something_to_do_are_stopped_at() -> None:
    hook, fake = fake_hook(8, 2, on_host=True)
    z = np.ones(8, np.float32)
    steering = Steering("two", 8, N_LAYER, {1: Delta.constant(z), 4: Delta.constant(z)})
    hook.arm([lay_out(Mix.of(steering)), None], [True, True], Capture([3], [0]))
    assert [fake.asks_for(f"l_out-{il}") for il in range(N_LAYER)] == [
        False, True, False, True, True, False,
    ]  # fmt: skip


def test_a_hook_that_is_not_armed_asks_for_nothing() -> None:
    hook, fake = fake_hook(8, 2, on_host=True)
    assert not fake.asks_for("l_out-0")
    hook.arm([None], [True], watch_all=True)
    assert fake.run([rows_of(1, 8, seed=il) for il in range(N_LAYER)])
    hook.disarm()
    assert hook.seen.tolist() == [1] * N_LAYER
    assert not fake.asks_for("l_out-0")


def test_reading_alone_writes_nothing_back() -> None:
    hook, fake = fake_hook(8, 2, on_host=False)
    captured = hook.arm([None, None], [True, True], Capture([2], [1]))
    block = rows_of(2, 8, seed=14)
    assert fake.hands_over("l_out-2", block)
    hook.disarm()
    assert captured is not None
    assert same_bits(captured[0, 0], block[1])
    assert "tensor_set" not in fake.called


def test_no_more_rows_are_copied_than_from_the_first_to_the_last_with_something_to_do() -> None:
    hook, fake = fake_hook(8, 6, on_host=False)
    steered = lay_out(1.0 * at_block(Delta.constant(np.ones(8, np.float32)), il=2))
    captured = hook.arm(
        [None, None, steered, None, steered, None], [True] * 6, Capture([2], [1]), watch_all=True
    )
    before = rows_of(6, 8, seed=15)
    after = before.copy()
    assert fake.hands_over("l_out-1", before)  # where there is nothing to do
    assert fake.hands_over("l_out-2", after)
    hook.disarm()
    assert fake.copied == [("get", 4 * 8 * 1, 4 * 8 * 4), ("set", 4 * 8 * 2, 4 * 8 * 3)]
    assert captured is not None
    assert same_bits(captured[0, 0], before[1])
    changed = [row in (2, 4) for row in range(6)]
    assert same_bits(after, before + np.array(changed, np.float32)[:, None])


def test_a_batch_with_more_terms_than_rows_finds_room_for_them() -> None:
    hook, fake = fake_hook(8, 2, on_host=True)
    steerings = [at_block(Delta.constant(rows_of(1, 8, seed=s)), name=str(s)) for s in range(9)]
    mix = Mix(tuple(Term(0.5 + i, s) for i, s in enumerate(steerings)))
    before = rows_of(2, 8, seed=15)
    after = before.copy()
    hook.arm([lay_out(mix)] * 2, [True, True])
    assert fake.hands_over("l_out-0", after)
    hook.disarm()
    for row in range(2):
        want = steer_row(before[row], mix.terms, 0)
        assert np.all(np.abs(after[row] - want) <= rounding(before[row], mix.terms))


def armed_constant(hook: Hook, n_rows: int, il: int, size: float = 1.0) -> None:
    z = np.full(hook.n_embd, size, np.float32)
    steering = Steering("constant", hook.n_embd, N_LAYER, {il: Delta.constant(z)})
    hook.arm([lay_out(1.0 * steering)] * n_rows, [row == 0 for row in range(n_rows)])


@memory_kinds
@pytest.mark.parametrize(("nbytes", "nelements"), [(2 * 3 * 8, 24), (4 * 25, 25), (8 * 24, 24)])
def test_a_tensor_that_is_not_rows_of_float32_is_refused_unread(
    nbytes: int, nelements: int, on_host: bool
) -> None:
    hook, fake = fake_hook(8, 3, on_host=on_host)
    armed_constant(hook, 3, il=2)
    before = rows_of(3, 8, seed=16)
    after = before.copy()
    assert not fake.hands_over("l_out-2", after, nbytes, nelements)
    with pytest.raises(EngineError, match=r"block 2 .* not float32 rows of 8.*use another model"):
        hook.disarm()
    assert same_bits(after, before)


@memory_kinds
@pytest.mark.parametrize(("il", "n_found"), [(2, 2), (2, 4), (2, 1), (5, 2), (5, 4), (2, 0)])
def test_a_block_with_an_unexpected_number_of_rows_is_refused_untouched(
    il: int, n_found: int, on_host: bool
) -> None:
    hook, fake = fake_hook(8, 4, on_host=on_host)
    armed_constant(hook, 3, il)  # three rows, the first of them an output
    before = rows_of(n_found, 8, seed=17)
    after = before.copy()
    assert not fake.hands_over(f"l_out-{il}", after)
    with pytest.raises(EngineError, match=f"block {il} hands out {n_found} rows for a batch of 3"):
        hook.disarm()
    assert same_bits(after, before)


@memory_kinds
@pytest.mark.parametrize("size", [3e38, -3e38])
def test_steering_that_becomes_infinite_is_an_error_that_names_the_block(
    size: float, on_host: bool
) -> None:
    hook, fake = fake_hook(8, 2, on_host=on_host)
    armed_constant(hook, 2, il=3, size=size)
    assert not fake.hands_over("l_out-3", rows_of(2, 8, seed=18))
    with pytest.raises(EngineError, match="block 3 infinite; choose a smaller strength"):
        hook.disarm()


def test_steering_that_never_fired_is_an_error() -> None:
    hook, fake = fake_hook(8, 2, on_host=True)
    armed_constant(hook, 2, il=3)
    assert fake.run([])
    with pytest.raises(EngineError, match="asked for 2 times and happened 0 times"):
        hook.disarm()


def test_steering_that_missed_one_block_is_an_error() -> None:
    hook, fake = fake_hook(8, 2, on_host=True)
    mix = three_sequences(8)[0]
    hook.arm([lay_out(mix)] * 2, [True, True])
    for il in range(N_LAYER - 1):
        assert fake.hands_over(f"l_out-{il}", rows_of(2, 8, seed=il))
    with pytest.raises(EngineError, match="asked for 12 times and happened 10 times"):
        hook.disarm()


def test_a_batch_that_llama_cpp_refused_is_not_blamed_on_steering() -> None:
    hook, fake = fake_hook(8, 2, on_host=True)
    armed_constant(hook, 2, il=3)
    assert fake.asks_for("l_out-3")
    hook.disarm(decoded=False)  # where it had been decoded, this would be an error: see above
    assert not fake.asks_for("l_out-3")


def test_an_error_is_forgotten_when_the_hook_is_armed_again() -> None:
    hook, fake = fake_hook(8, 2, on_host=True)
    armed_constant(hook, 2, il=3)
    with pytest.raises(EngineError):
        hook.disarm()
    armed_constant(hook, 2, il=3)
    assert fake.hands_over("l_out-3", rows_of(2, 8, seed=19))
    hook.disarm()


@pytest.mark.parametrize(("n_embd", "n_layer"), [(9, N_LAYER), (7, N_LAYER), (8, N_LAYER - 1)])
def test_steering_of_another_geometry_is_refused_before_native_code_reads_it(
    n_embd: int, n_layer: int
) -> None:
    hook, _ = fake_hook(8, 2, on_host=True)
    other = Steering("other", n_embd, n_layer, {0: Delta.constant(np.ones(n_embd, np.float32))})
    with pytest.raises(SteeringError, match=f"{n_layer} blocks of {n_embd} values.*build it for"):
        hook.arm([lay_out(Mix.of(other))], [True])


@pytest.mark.parametrize(
    ("capture", "message"),
    [
        (Capture([N_LAYER - 1], [0]), "row 0 has no activation at the last block"),
        (Capture([0], [2]), "row 2 cannot be captured from 2 rows"),
        (Capture([0], [-1]), "row -1 cannot be captured"),
    ],
)
def test_a_capture_that_could_only_return_zeros_is_refused(capture: Capture, message: str) -> None:
    hook, _ = fake_hook(8, 4, on_host=True)
    with pytest.raises(EngineError, match=message):
        hook.arm([None, None], [False, True], capture)


def test_an_armed_hook_keeps_alive_what_its_table_points_to() -> None:
    hook, fake = fake_hook(576, 1, on_host=True)
    for seed in range(20):
        z = rows_of(1, 576, seed)[0]
        hook.arm([lay_out(2.0 * at_block(Delta.constant(z)))], [True])
        garbage = [np.full(576, 1e9, np.float32) for _ in range(50)]
        block = np.zeros((1, 576), np.float32)
        assert fake.hands_over("l_out-0", block)
        hook.disarm()
        np.testing.assert_array_equal(block[0], 2 * z)
        assert len(garbage) == 50
