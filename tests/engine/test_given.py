"""What left a block is given to llama.cpp: what follows has its bits, nothing below is built."""

import ctypes
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence

import numpy as np
import pytest

from steerplug.engine.capture import Capture, Given
from steerplug.engine.context import Context
from steerplug.engine.hook import lay_out
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.errors import EngineError
from steerplug.steering.value import Array, Delta, Mix, Steering

# isort: split
from llama_cpp import llama_cpp as llama

TOKENS = [1, 504, 5345, 282, 4649, 314, 7042, 28, 284, 260, 5345, 282, 8219]
OTHERS = [1, *reversed(TOKENS[1:])]
HELD = 4
"""Tokens that are in the cells; the rest is read."""


def gates(model: Model, blocks: Sequence[int]) -> Mix:
    """Gates at some blocks, each the same whatever the other blocks are."""

    def gate(il: int) -> Delta:
        W, Z = np.random.default_rng(il).standard_normal((2, 3, model.n_embd), np.float32)
        return Delta.gated(0.02 * W, np.full(3, 0.4, np.float32), 0.5 * Z)

    deltas = {il: gate(il) for il in blocks}
    return Mix.of(Steering("gates", model.n_embd, model.n_layer, deltas, "all"))


def rows(tokens: Sequence[int], mix: Mix | None, begin: int, *, output: bool = False) -> list[Row]:
    """Rows of a text from `begin` on, steered from the sixth."""
    steering = lay_out(mix) if mix else None
    return [Row(token, i, output, steering if i > 5 else None)
            for i, token in enumerate(tokens)][begin:]  # fmt: skip


def read(context: Context, mix: Mix | None, il: int, given: Given | None = None,
         tokens: Sequence[int] = TOKENS) -> Array:  # fmt: skip
    """Return the rows at block il behind those that are held: (n_rows, n_embd)."""
    context.clear()
    context.decode(rows(TOKENS, mix, 0)[:HELD])
    n = len(tokens) - HELD
    output = il == context.model.n_layer - 1
    captured = context.decode(
        rows(tokens, mix, HELD, output=output), Capture([il], range(n), only=True, given=given)
    )
    assert captured is not None
    (there,) = captured
    return np.asarray(there)


def context_cells(context: Context) -> bytes:
    """Return what sequence 0 holds, of all blocks."""
    size = llama.llama_state_seq_get_size(context.handle, 0)
    cells = (ctypes.c_uint8 * size)()
    assert llama.llama_state_seq_get_data(context.handle, cells, size, 0) == size
    return bytes(cells)


@pytest.mark.parametrize(("begin", "il"), [(0, 1), (7, 9), (7, 22), (28, 29)])
def test_rows_have_the_bits_that_they_have_where_all_blocks_are_computed(
    context: Context, model: Model, begin: int, il: int
) -> None:
    mix = gates(model, range(il))
    left = read(context, gates(model, range(begin)) if begin else None, begin)
    whole = read(context, mix, il)
    given = read(context, mix, il, Given(begin, left))
    assert given.tobytes() == whole.tobytes()
    unsteered = read(context, gates(model, range(begin)) if begin else None, il)
    assert (unsteered[2:] != whole[2:]).any()  # the block that is given steers as well


def test_of_the_blocks_below_nothing_is_left(context: Context) -> None:
    """Not even the tokens: others give the same rows, and leave the same in all cells."""
    left = read(context, None, 20)
    read(context, None, 24)
    first = read(context, None, 24, Given(20, left))
    cells = context_cells(context)
    other = read(context, None, 24, Given(20, left), tokens=[*TOKENS[:HELD], *OTHERS[HELD:]])
    assert other.tobytes() == first.tobytes()
    assert context_cells(context) == cells
    read(context, None, 24, tokens=[*TOKENS[:HELD], *OTHERS[HELD:]])
    assert context_cells(context) != cells


def test_the_next_decode_is_whole_again(context: Context) -> None:
    """Of the same shape, so llama.cpp would take the last graph once more."""
    left = read(context, None, 20)
    context.clear()
    context.decode(rows(TOKENS, None, 0)[:HELD])
    texts = rows(TOKENS, None, HELD, output=True)
    n = len(texts)
    context.decode(texts, Capture([29], range(n)))
    plain = context.logits(n - 1)
    for given in (Given(20, left), Given(28, np.zeros_like(left)), Given(28, left)):
        context.keep(HELD)
        context.decode(texts, Capture([29], range(n), given=given))
        assert (context.logits(n - 1).tobytes() == plain.tobytes()) == (given.il == 20)
    context.keep(HELD)
    context.decode(texts, Capture([29], range(n)))
    assert context.logits(n - 1).tobytes() == plain.tobytes()
    context.keep(HELD)
    context.decode(texts)
    assert context.logits(n - 1).tobytes() == plain.tobytes()


def test_the_rows_above_what_is_given_predict_what_the_whole_model_does(context: Context) -> None:
    left = read(context, None, 20)
    texts = rows(TOKENS, None, HELD, output=True)
    context.keep(HELD)
    context.decode(texts)
    plain = [context.logits(i) for i in range(len(texts))]
    context.keep(HELD)
    context.decode(texts, Capture([29], range(len(texts)), given=Given(20, left)))
    for i, logits in enumerate(plain):
        assert context.logits(i).tobytes() == logits.tobytes()


@pytest.mark.parametrize("shape", [(3, 576), (9, 575)])
def test_rows_of_another_shape_are_refused(context: Context, shape: tuple[int, int]) -> None:
    read(context, None, 20)
    assert context.hook.takes_given
    with pytest.raises(EngineError, match=r"9 rows cannot be given as .* give \(9, 576\)"):
        read(context, None, 24, Given(20, np.zeros(shape, np.float32)))


@pytest.mark.parametrize(("begin", "il"), [(20, 19), (-1, 3), (29, 29)])
def test_a_block_that_is_left_out_cannot_be_read(context: Context, begin: int, il: int) -> None:
    rows = np.zeros((len(TOKENS) - HELD, context.model.n_embd), np.float32)
    with pytest.raises(EngineError, match=f"block {il} cannot be captured where block {begin} is"):
        read(context, None, il, Given(begin, rows))


def test_where_the_callback_steers_nothing_can_be_given(model: Model) -> None:
    context = Context(model, n_ctx=64, n_batch=32, n_threads=1)
    try:
        context.hook.in_graph = False
        assert not context.hook.takes_given
        with pytest.raises(EngineError, match="cannot be given"):
            read(context, None, 24, Given(20, np.zeros((9, model.n_embd), np.float32)))
    finally:
        context.close()


def test_nothing_is_given_where_llama_cpp_never_asks_about_its_last_graph(model: Model) -> None:
    program = """
        import sys
        from pathlib import Path
        from steerplug.engine.context import Context
        from steerplug.engine.model import Model
        from steerplug.engine.rows import Row

        context = Context(Model(Path(sys.argv[1])), n_ctx=64, n_threads=1)
        for i in range(2):
            context.decode([Row(5, i)])
        assert context.route == "node"
        print(context.hook.takes_given)
    """
    told = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), str(model.path)],
            env=os.environ | switch, capture_output=True, text=True, check=True,
        ).stdout.split()[-1]
        for switch in ({}, {"LLAMA_GRAPH_REUSE_DISABLE": "1"})
    ]  # fmt: skip
    assert told == ["True", "False"]
