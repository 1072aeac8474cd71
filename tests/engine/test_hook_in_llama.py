"""The hook inside llama.cpp on the real model: what it changes, what it must not, what it reads."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from steerplug.benchmark.peers import ControlVector
from steerplug.engine import threads
from steerplug.engine.capture import Capture
from steerplug.engine.context import Context
from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.model import Model
from steerplug.engine.reference import steer_row
from steerplug.engine.rows import Row
from steerplug.errors import EngineError, SteeringError
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Steering

TOKENS = [1, 504, 5345, 282, 4649, 314, 7042, 28, 284, 260, 5345, 282, 8219]


def same_bits(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()


def relative(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def a_constant(model: Model, *layers: int, size: float = 20.0, seed: int = 31) -> Steering:
    rng = np.random.default_rng(seed)
    deltas = {}
    for il in layers:
        z = rng.standard_normal(model.n_embd)
        deltas[il] = Delta.constant((size * z / np.linalg.norm(z)).astype(np.float32))
    return Steering("constant", model.n_embd, model.n_layer, deltas, "all")


def a_gate(model: Model, offset: float = 0.4, seed: int = 32) -> Steering:
    rng = np.random.default_rng(seed)
    deltas = {
        il: Delta.gated(
            (0.02 * rng.standard_normal((2, model.n_embd))).astype(np.float32),
            np.full(2, offset, np.float32),
            (0.05 * rng.standard_normal((2, model.n_embd))).astype(np.float32),
        )
        for il in range(model.n_layer)
    }
    return Steering("gate", model.n_embd, model.n_layer, deltas, "all")


def run(
    context: Context,
    steering: Sequence[RowSteering | None],
    capture: Capture | None = None,
    *,
    watch_all: bool = False,
) -> tuple[Array, Array | None]:
    """Decode TOKENS in one batch, all rows with logits; return logits and what was captured."""
    context.clear()
    tokens = [token % context.model.vocab.n_tokens for token in TOKENS]
    captured = context.decode(
        [Row(t, i, True, a) for i, (t, a) in enumerate(zip(tokens, steering, strict=True))],
        capture, watch_all=watch_all,
    )  # fmt: skip
    return np.stack([context.logits(i) for i in range(len(TOKENS))]), captured


def on_all(mix: Mix | Steering) -> list[RowSteering | None]:
    return [lay_out(Mix.of(mix))] * len(TOKENS)


def on_none() -> list[RowSteering | None]:
    return [None] * len(TOKENS)


def test_every_block_is_met_exactly_once_by_a_prompt_and_by_a_single_token(
    context: Context, model: Model
) -> None:
    run(context, on_none(), watch_all=True)
    assert context.hook.seen.tolist() == [1] * model.n_layer
    context.decode([Row(5, len(TOKENS), True)], watch_all=True)
    assert context.hook.seen.tolist() == [1] * model.n_layer


def test_strength_0_is_bit_identical_to_llama_cpp_without_a_callback(
    context: Context, model: Model, plain_logits: Callable[..., Array]
) -> None:
    plain = plain_logits(TOKENS)
    for mix in (NOTHING, 0.0 * a_constant(model, 3, 15), 0 * a_gate(model)):
        assert same_bits(run(context, on_all(mix))[0], plain)
    assert not same_bits(run(context, on_all(1e-3 * a_constant(model, 3)))[0], plain)


def test_a_hook_that_reads_every_block_leaves_the_logits_bit_identical(
    context: Context, model: Model, plain_logits: Callable[..., Array]
) -> None:
    plain = plain_logits(TOKENS)
    everything = Capture(range(model.n_layer), range(len(TOKENS)))
    assert same_bits(run(context, on_none(), everything)[0], plain)
    shut = Mix.of(a_gate(model, offset=-1e4))
    logits, _ = run(context, on_all(shut))
    assert context.hook.applied == model.n_layer * len(TOKENS)
    assert same_bits(logits, plain)


@pytest.mark.parametrize("il", [0, 14, 29])
@pytest.mark.parametrize("strength", [1.0, -0.3])
def test_a_constant_changes_the_block_s_output_by_exactly_strength_times_z(
    context: Context, model: Model, il: int, strength: float
) -> None:
    steering = a_constant(model, il)
    everything = Capture(range(model.n_layer), range(len(TOKENS)))
    _, before = run(context, on_none(), everything)
    _, after = run(context, on_all(strength * steering), everything)
    assert before is not None
    assert after is not None
    assert same_bits(after[il], before[il] + np.float32(strength) * steering.layers[il].z[0])
    assert same_bits(after[:il], before[:il])
    if il + 1 < model.n_layer:
        assert not same_bits(after[il + 1], before[il + 1])


def test_a_gate_at_one_block_does_to_real_activations_what_the_twin_does(
    context: Context, model: Model
) -> None:
    mix = 1.5 * Steering("one", model.n_embd, model.n_layer, {17: a_gate(model).layers[17]}, "all")
    rows = Capture([17], range(len(TOKENS)))
    _, before = run(context, on_none(), rows)
    _, after = run(context, on_all(mix), rows)
    assert before is not None
    assert after is not None
    for h, got in zip(before[0], after[0], strict=True):
        want = steer_row(h, mix.terms, 17)
        # |h| is up to 1e4 at the attention sink, so the bound is relative to the row
        assert np.abs(got - want).max() <= 1e-6 * np.abs(h).max()
        assert relative(got - h, want - h) < 1e-3


def agree(one: Context, other: Context, model: Model) -> None:
    """Two contexts give the same bits, steered or not, as logits and as captured activations."""
    layers = (model.n_layer // 6, model.n_layer * 2 // 3)
    mix = 0.7 * a_constant(model, *layers) + -1.0 * a_gate(model)
    everything = Capture(range(model.n_layer), range(len(TOKENS)))
    for steering in (on_none(), on_all(mix)):
        logits, captured = run(one, steering, everything)
        logits_there, captured_there = run(other, steering, everything)
        assert captured is not None
        assert captured_there is not None
        assert same_bits(captured, captured_there)
        assert same_bits(logits, logits_there)


def test_get_and_set_copies_give_the_same_bits_as_host_pointers(
    context: Context, model: Model
) -> None:
    copying = Context(
        model, n_ctx=512, n_batch=128, n_seq=2, n_threads=1, on_host=False, on_device=False
    )
    assert copying.route == "callback"
    agree(context, copying, model)
    copying.close()


def called_back(model: Model) -> Context:
    """A context whose graphs steer nothing, so that the scheduler's callback has to."""
    context = Context(model, n_ctx=512, n_batch=128, n_seq=2, n_threads=1)
    context.hook.in_graph = False
    return context


@pytest.mark.skipif(sys.platform != "linux", reason="only there is a graph's function replaced")
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_a_graph_steers_by_itself_with_the_bits_of_the_callback(
    model: Model, tiny: Model, n_threads: int
) -> None:
    if n_threads > 1:  # where they share a processor, each operation waits for all of them
        model = tiny
    context = Context(model, n_ctx=512, n_batch=128, n_seq=2, n_threads=n_threads)
    assert context.hook.in_graph
    by_callback = called_back(model)
    agree(context, by_callback, model)
    by_callback.close()
    context.close()
    threads.give_back()


@pytest.mark.parametrize("n_rows", [1, len(TOKENS)])
def test_a_stock_control_vector_beside_steering_is_applied_by_both_ways(
    model: Model, n_rows: int
) -> None:
    """It comes before steering; a sum of rows and one row is no plain sum of tensors."""
    steering = lay_out(Mix.of(a_gate(model)))
    logits = []
    for context in (
        Context(model, n_ctx=512, n_batch=128, n_seq=2, n_threads=1), called_back(model)
    ):
        rows = [Row(t, i, i == n_rows - 1, steering) for i, t in enumerate(TOKENS[:n_rows])]
        context.decode(rows)
        without = context.logits(n_rows - 1)
        ControlVector(model, seed=3).set(context)
        context.clear()
        context.decode(rows)
        logits.append(context.logits(n_rows - 1))
        assert not same_bits(without, logits[-1])
        context.close()
    assert same_bits(*logits)


def test_where_llama_cpp_was_loaded_first_the_callback_steers_with_the_same_bits(
    context: Context, model: Model
) -> None:
    program = f"""
        import llama_cpp
        from pathlib import Path
        from steerplug.engine.model import Model
        from tests.engine.test_hook_in_llama import Context, a_gate, on_all, run
        model = Model(Path({str(model.path)!r}))
        context = Context(model, n_ctx=512, n_batch=128, n_seq=2, n_threads=1)
        logits, _ = run(context, on_all(a_gate(model)))
        print(context.hook.in_graph, logits.sum(), logits.std())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    logits, _ = run(context, on_all(a_gate(model)))
    assert done.stdout.split() == ["False", str(logits.sum()), str(logits.std())]


def test_capture_hands_over_the_chosen_blocks_and_rows_in_the_order_asked_for(
    context: Context, model: Model
) -> None:
    everything = Capture(range(model.n_layer), range(len(TOKENS)))
    _, whole = run(context, on_none(), everything)
    _, some = run(context, on_none(), Capture([20, 3, 29], [7, 2]))
    assert whole is not None
    assert some is not None
    assert some.shape == (3, 2, model.n_embd)
    assert same_bits(some, whole[np.ix_([20, 3, 29], [7, 2])])
    assert np.abs(some).max() > 0.1


def test_the_last_block_of_a_prompt_with_one_output_row_is_still_that_row(
    context: Context, model: Model
) -> None:
    last = len(TOKENS) - 1
    steering = a_constant(model, model.n_layer - 1)
    rows = [Row(t, i, i == last, lay_out(Mix.of(steering))) for i, t in enumerate(TOKENS)]
    captured = context.decode(rows, Capture([model.n_layer - 1], [last]))
    logits = context.logits(last)
    assert context.hook.applied == 1
    whole, all_captured = run(context, on_all(steering), Capture([model.n_layer - 1], [last]))
    assert captured is not None
    assert all_captured is not None
    assert relative(captured, all_captured) < 1e-5
    assert relative(logits, whole[last]) < 1e-5


def test_rows_before_the_first_steered_row_are_bit_identical(
    context: Context, model: Model
) -> None:
    bare, _ = run(context, on_none())
    steering = on_none()
    steering[6] = lay_out(Mix.of(a_constant(model, 2, 10)))
    steered, _ = run(context, steering)
    assert same_bits(steered[:6], bare[:6])
    for row in range(6, len(TOKENS)):
        assert not same_bits(steered[row], bare[row])


def two_sequences(
    context: Context, first: RowSteering | None, second: RowSteering | None
) -> tuple[Array, Array]:
    """Both sequences token by token in the same batches, interleaved; the logits of each."""
    context.clear()
    rows = []
    for i, token in enumerate(TOKENS):
        rows.append(Row(token, i, True, first, sequence=0))
        rows.append(Row(TOKENS[-1 - i], i, True, second, sequence=1))
    context.decode(rows)
    logits = np.stack([context.logits(i) for i in range(len(rows))])
    return logits[0::2], logits[1::2]


def alone(
    context: Context, tokens: Sequence[int], steering: RowSteering | None, sequence: int
) -> Array:
    context.clear()
    context.decode([Row(t, i, True, steering, sequence) for i, t in enumerate(tokens)])
    return np.stack([context.logits(i) for i in range(len(tokens))])


def test_two_sequences_of_one_batch_are_each_steered_as_if_alone(
    context: Context, model: Model
) -> None:
    first = lay_out(1.0 * a_constant(model, 4, 12))
    second = lay_out(-0.6 * a_gate(model) + 2.0 * a_constant(model, 25, seed=33))
    together = two_sequences(context, first, second)
    apart = (
        alone(context, TOKENS, first, sequence=0),
        alone(context, TOKENS[::-1], second, sequence=1),
    )
    swapped = two_sequences(context, second, first)
    for a, b, wrong in zip(together, apart, swapped, strict=True):
        assert relative(a, b) < 1e-4
        assert relative(wrong, b) > 0.1


def test_a_sequence_without_steering_is_bit_identical_whatever_its_neighbour_asks_for(
    context: Context, model: Model
) -> None:
    bare, neighbour = two_sequences(context, None, None)
    mix = lay_out(1.0 * a_constant(model, 4, 12) + 1.0 * a_gate(model))
    still_bare, steered = two_sequences(context, None, mix)
    assert same_bits(still_bare, bare)
    assert not same_bits(steered, neighbour)


def test_how_far_a_row_was_moved_is_the_change_over_its_length(
    context: Context, model: Model
) -> None:
    steering = a_constant(model, 8)
    _, before = run(context, on_none(), Capture([8], range(len(TOKENS))))
    rows = on_all(2.0 * steering)
    rows[0] = None
    run(context, rows)
    assert before is not None
    want = 2 * 20.0 / np.linalg.norm(before[0], axis=1)
    want[0] = 0
    np.testing.assert_allclose(context.hook.effects()[0], want, rtol=1e-3)
    assert context.hook.applied == len(TOKENS) - 1


def test_a_decode_without_steering_reports_none_whatever_came_before(
    context: Context, model: Model
) -> None:
    run(context, on_all(a_constant(model, 8)))
    assert context.hook.applied > 0
    run(context, on_none())
    assert context.hook.applied == 0
    assert context.hook.effects()[:2] == ([0.0] * len(TOKENS), [0] * len(TOKENS))


@pytest.mark.parametrize("strength", [1e30, -1e300])
def test_an_infinite_activation_is_an_error_and_the_context_works_afterwards(
    context: Context, model: Model, strength: float
) -> None:
    bare, _ = run(context, on_none())
    with pytest.raises(EngineError, match=r"block 9 infinite; choose a smaller strength\.$"):
        run(context, on_all(strength * a_constant(model, 9, size=1e20)))
    assert same_bits(run(context, on_none())[0], bare)


def test_a_refused_batch_tells_llama_cpp_s_own_reason_even_when_it_was_to_be_steered(
    tiny: Model,
) -> None:
    mix = lay_out(Mix.of(a_constant(tiny, 1)))
    small = Context(tiny, n_ctx=256, n_batch=256, n_threads=1)
    with pytest.raises(EngineError, match=r"could not decode 1 tokens .*invalid token"):
        small.decode([Row(10**6, 0, True, mix)])
    small.decode([Row(5, i, False) for i in range(small.n_ctx)])
    with pytest.raises(EngineError, match=r"code 1: .*memory slot.*raise n_ctx"):
        small.decode([Row(5, small.n_ctx, True, mix)])
    small.close()


def test_steering_for_another_model_is_refused_and_the_context_works_afterwards(
    context: Context,
) -> None:
    bare, _ = run(context, on_none())
    narrow = Steering("narrow", 64, 5, {0: Delta.constant(np.ones(64, np.float32))})
    with pytest.raises(SteeringError, match=r"5 blocks of 64 values.*30 of 576"):
        run(context, on_all(narrow))
    assert same_bits(run(context, on_none())[0], bare)


def test_logits_that_were_not_asked_for_are_an_error(context: Context) -> None:
    context.decode([Row(5, 0, True), Row(6, 1)])
    assert context.logits(0).shape == (49152,)
    for row in (1, 2, 700):
        with pytest.raises(EngineError, match=f"no logits were asked for at row {row} "):
            context.logits(row)


@pytest.mark.parametrize("n_rows", [0, 129])
def test_a_batch_of_no_rows_or_too_many_is_refused(context: Context, n_rows: int) -> None:
    with pytest.raises(EngineError, match=f"a batch of {n_rows} rows; send 1 to 128"):
        context.decode([Row(5, i) for i in range(n_rows)])


def test_a_closed_context_says_so_instead_of_touching_freed_memory(model: Model) -> None:
    context = Context(model, n_ctx=256, n_batch=32, n_threads=1)
    context.decode([Row(5, 0, True)])
    context.close()
    context.close()
    uses: list[Callable[[], object]] = [
        lambda: context.decode([Row(5, 0)]), lambda: context.logits(0), context.clear,
        lambda: context.keep(0),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(EngineError, match="this context is closed"):
            use()
