"""The cache rule in one file: cells serve again only where token and steering are both equal."""

from collections.abc import Sequence

import numpy as np
import pytest

from steerplug.engine.context import Context
from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.rows import Row
from steerplug.errors import EngineError
from steerplug.steering.value import Array, Delta, Mix, Steering
from tests.helpers.tiny_models import tiny_model

BLOCK = 12


def relative(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture
def reader(context: Context) -> Reader:
    return Reader(context)


@pytest.fixture(scope="module")
def tokens(model: Model) -> list[int]:
    return [model.vocab.bos, *model.vocab.tokenize("The sea is deep and blue, and nobody has seen")]


def mix(model: Model, seed: int) -> Mix:
    z = np.random.default_rng(seed).standard_normal(model.n_embd)
    deltas = {BLOCK: Delta.constant((25 * z / np.linalg.norm(z)).astype(np.float32))}
    return Mix.of(Steering(f"seed {seed}", model.n_embd, model.n_layer, deltas))


def rows(tokens: Sequence[int], *spans: tuple[int, int, RowSteering | None]) -> list[Row]:
    """The tokens as rows, the last one asking for logits; spans (begin, end, steering)."""
    steering: list[RowSteering | None] = [None] * len(tokens)
    for begin, end, what in spans:
        steering[begin:end] = [what] * (end - begin)
    last = len(tokens) - 1
    return [Row(token, i, i == last, steering[i]) for i, token in enumerate(tokens)]


def run(reader: Reader, wanted: Sequence[Row]) -> tuple[int, Array]:
    """Decode what is not held; return how much was, and the last row's logits."""
    same = reader.reuse(wanted[:-1])
    for batch in reader.decode(wanted[same:]):
        last = batch.end - batch.begin - 1
    return same, reader.context.logits(last)


def fresh(reader: Reader, wanted: Sequence[Row]) -> Array:
    """The same from an empty cache, which is left empty."""
    reader.reuse([])
    logits = run(reader, wanted)[1]
    reader.reuse([])
    return logits


def test_the_longest_common_beginning_is_kept(reader: Reader, tokens: list[int]) -> None:
    assert run(reader, rows(tokens))[0] == 0
    assert len(reader) == len(tokens)
    assert run(reader, rows(tokens))[0] == len(tokens) - 1
    other = [*tokens[:5], tokens[5] + 1, *tokens[6:]]
    assert run(reader, rows(other))[0] == 5
    assert run(reader, rows(tokens[:4]))[0] == 3
    assert len(reader) == 4


def test_cells_of_other_steering_are_dropped_from_the_first_one_on(
    reader: Reader, tokens: list[int], model: Model
) -> None:
    one, other = lay_out(mix(model, 1)), lay_out(mix(model, 2))
    end = len(tokens)
    expected = {
        name: fresh(reader, rows(tokens, (5, end, what)))
        for name, what in (("none", None), ("one", one), ("other", other))
    }
    assert relative(expected["one"], expected["other"]) > 0.05
    for name, what, kept in (
        ("none", None, 0), ("one", one, 5), ("one", one, end - 1), ("other", other, 5),
        ("none", None, 5), ("other", other, 5), ("one", one, 5), ("none", None, 5),
    ):  # fmt: skip
        same, logits = run(reader, rows(tokens, (5, end, what)))
        assert same == kept, name
        assert relative(logits, expected[name]) < 1e-3, name


def test_another_strength_or_position_is_other_steering(
    reader: Reader, tokens: list[int], model: Model
) -> None:
    z = np.random.default_rng(1).standard_normal((2, model.n_embd)).astype(np.float32)
    front = Steering("f", model.n_embd, model.n_layer, {BLOCK: Delta.constant(z)}, "front")
    run(reader, rows(tokens, (2, 4, lay_out(1.0 * front, 0))))
    assert run(reader, rows(tokens, (2, 4, lay_out(1.0 * front, 1))))[0] == 2
    assert run(reader, rows(tokens, (2, 4, lay_out(1.5 * front, 1))))[0] == 2
    assert run(reader, rows(tokens, (2, 4, lay_out(1.5 * front, 1))))[0] == len(tokens) - 1


def test_equal_steering_of_another_object_is_the_same_steering(
    reader: Reader, tokens: list[int], model: Model
) -> None:
    run(reader, rows(tokens, (3, 8, lay_out(mix(model, 1)))))
    assert run(reader, rows(tokens, (3, 8, lay_out(mix(model, 1)))))[0] == len(tokens) - 1


def test_the_same_tokens_steered_elsewhere_are_not_the_same_cells(
    reader: Reader, tokens: list[int], model: Model
) -> None:
    one = lay_out(mix(model, 1))
    run(reader, rows(tokens, (3, 8, one)))
    assert run(reader, rows(tokens, (3, 7, one)))[0] == 7
    assert run(reader, rows(tokens, (4, 7, one)))[0] == 3


def test_several_batches_leave_the_same_cells_as_one(
    reader: Reader, tokens: list[int], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = rows(tokens, (4, 9, lay_out(mix(model, 1))))
    expected = fresh(reader, wanted)
    monkeypatch.setattr(reader.context, "n_batch", 3)
    batches = list(reader.decode(wanted, [BLOCK]))
    assert [batch[:2] for batch in batches] == [
        (begin, min(begin + 3, len(tokens))) for begin in range(0, len(tokens), 3)
    ]
    for batch in batches:
        assert batch.captured is not None
        assert batch.captured.shape == (1, batch.end - batch.begin, reader.context.model.n_embd)
    last = batches[-1].end - batches[-1].begin - 1
    assert relative(reader.context.logits(last), expected) < 1e-3
    assert len(reader) == len(tokens)
    assert reader.reuse(wanted) == len(tokens)


def test_without_blocks_to_capture_nothing_is(reader: Reader, tokens: list[int]) -> None:
    (batch,) = reader.decode(rows(tokens))
    assert batch.captured is None


def test_captured_activations_carry_the_steering_of_their_rows(
    reader: Reader, tokens: list[int], model: Model
) -> None:
    (bare,) = reader.decode(rows(tokens), [BLOCK])
    reader.reuse([])
    steered = rows(tokens, (6, 7, lay_out(mix(model, 1))))
    (found,) = reader.decode(steered, [BLOCK])
    assert bare.captured is not None
    assert found.captured is not None
    change = (found.captured - bare.captured)[0]
    z = mix(model, 1).terms[0].steering.layers[BLOCK].z[0]
    np.testing.assert_allclose(change[6], z, atol=1e-2)
    np.testing.assert_array_equal(change[:6], 0)


@pytest.mark.parametrize("failure", [EngineError("planted"), KeyboardInterrupt()])
def test_after_a_failure_no_cell_is_held(
    failure: BaseException, reader: Reader, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fresh(reader, rows(tokens))
    run(reader, rows(tokens[:6]))
    context, real = reader.context, reader.context.decode
    monkeypatch.setattr(context, "n_batch", 2)
    left = [1]

    def fails(*args: object) -> object:
        if not left:
            raise failure
        left.pop()
        return real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(context, "decode", fails)
        with pytest.raises(type(failure)):
            run(reader, rows(tokens))
    assert len(reader) == 0
    for batch in reader.decode(rows(tokens)):  # llama.cpp holds none either
        last = batch.end - batch.begin - 1
    assert relative(context.logits(last), expected) < 1e-3


def test_a_real_failure_of_llama_cpp_leaves_a_cache_that_works(
    reader: Reader, tokens: list[int], model: Model
) -> None:
    expected = fresh(reader, rows(tokens))
    run(reader, rows(tokens))
    impossible = [Row(model.vocab.n_tokens + 7, len(tokens), True)]
    with pytest.raises(EngineError, match="could not decode 1 tokens"):
        list(reader.decode(impossible))
    assert len(reader) == 0
    same, logits = run(reader, rows(tokens))
    assert same == 0
    assert relative(logits, expected) < 1e-3


def test_a_cache_that_cannot_be_cut_back_is_dropped_whole(
    reader: Reader, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a recurrent model: `Context.keep` then keeps nothing, and everything is decoded."""
    expected = fresh(reader, rows(tokens))
    run(reader, rows(tokens))

    def keeps_nothing(_n: int) -> int:
        reader.context.clear()
        return 0

    monkeypatch.setattr(reader.context, "keep", keeps_nothing)
    assert reader.reuse(rows(tokens[:5])) == 0
    assert len(reader) == 0
    same, logits = run(reader, rows(tokens))
    assert same == 0
    assert relative(logits, expected) < 1e-3


@pytest.mark.parametrize("name", ["qwen35", "mamba2"])
def test_texts_go_on_from_where_they_parted_before(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a recurrent model: whole states are kept there, and put back."""
    model = Model(tiny_model(name))
    reader = Reader(Context(model, n_ctx=256, n_batch=16, n_threads=1))
    rng = np.random.default_rng(0)
    system, a, b, *replies = (rng.integers(20, 2000, n).tolist() for n in (40, 9, 7, 5, 6, 4, 8))
    texts = [[*system, *prompt, *reply] for prompt in (a, b) for reply in replies]
    plain = {tuple(text): fresh(reader, rows(text)) for text in texts}
    read: list[int] = []
    decode = reader.context.decode

    def counted(batch: Sequence[Row], *args: object) -> object:
        read.append(len(batch))
        return decode(batch, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(reader.context, "decode", counted)
    n_read = []
    for text in texts:
        read.clear()
        _, logits = run(reader, rows(text))
        assert relative(logits, plain[tuple(text)]) < 1e-3
        reader.peek(rows([*text, 30, 31])[-2:], [1])
        n_read.append(sum(read) - 2)
    lengths = [len(text) for text in texts]
    assert n_read[0] == lengths[0]
    assert n_read[1] == lengths[1]  # which is where the first part was seen
    assert n_read[2:4] == [4, 8]
    assert n_read[4] == lengths[4]
    assert n_read[5:] == [lengths[5] - 40, 4, 8]
    reader.context.close()
    model.close()


def test_a_batch_that_is_never_read_adds_no_cells(reader: Reader, tokens: list[int]) -> None:
    reader.decode(rows(tokens))
    assert len(reader) == 0
    assert run(reader, rows(tokens))[0] == 0
