"""Recurrent and hybrid models in batches: every reply is what it is alone."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Piece, Progress, Request
from steerplug.engine.model import Model
from steerplug.engine.proofs import Proofs
from steerplug.engine.request import tokens_of
from steerplug.engine.rows import Row
from steerplug.engine.sampling import Sampling
from steerplug.errors import EngineError, ModelError
from steerplug.steering.value import NOTHING, Delta, Mix, Steering
from tests.helpers.alone import chat, check_accounts, far_from_alone, steering, until
from tests.helpers.asking import Reader, Rows, asks, read_all
from tests.helpers.tiny_models import tiny_model

ALL = ("qwen35", "lfm2", "granitehybrid", "falcon_h1", "jamba", "kimi_linear", "mamba", "mamba2",
       "rwkv7")
ONE_OF_EACH = ("qwen35", "mamba2")
"""A hybrid, and one that is a running state alone."""

WARM = Sampling(temperature=1.0, seed=3)


def mix_of(model: Model, seed: int) -> Mix:
    return steering(model, seed, size=30.0, layers=range(model.n_layer))


def check_alone(alone: Context, request: Request, pieces: Sequence[Piece]) -> None:
    """A reply is what it is alone: ten times nearer, at least, than it is without its steering."""
    far = far_from_alone(alone, request.prompt, request.mix, pieces)
    assert far < 1e-3
    if request.mix:
        assert 10 * far < far_from_alone(alone, request.prompt, NOTHING, pieces)


@pytest.fixture(scope="module", params=ONE_OF_EACH)
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    model = Model(tiny_model(request.param))
    yield model
    model.close()


@pytest.fixture(scope="module")
def shared_engine(model: Model) -> Iterator[Engine]:
    engine = Engine(model, n_ctx=2048, n_threads=1)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    """An engine whose cache is empty."""
    shared_engine.forget()
    return shared_engine


@pytest.fixture(scope="module")
def alone(model: Model) -> Iterator[Context]:
    context = Context(model, n_ctx=2048, n_threads=1)
    yield context
    context.close()


@pytest.fixture
def new_engine(model: Model) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**settings: Any) -> Engine:
        made.append(Engine(model, n_threads=1, **{"n_ctx": 1024, **settings}))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def some_requests(model: Model, n: int) -> list[Request]:
    """Chats of different lengths, every other one steered, each otherwise."""
    return [
        asks(chat(model, "Say it again. " * (1 + 3 * i) + str(i)),
             mix_of(model, i) if i % 2 else NOTHING, 6 + i, sampling=WARM, logprobs=20)
        for i in range(n)
    ]


def check_rows(decoded: Rows) -> None:
    """Each batch is one row for each of several sequences, in order, or one sequence."""
    for rows in decoded:
        sequences = [row.sequence for row in rows]
        assert len(set(sequences)) == 1 or sequences == sorted(set(sequences))


@pytest.mark.parametrize("model", ALL, indirect=True)
def test_requests_in_one_batch_are_what_they_are_alone(
    model: Model, engine: Engine, alone: Context, decoded: Rows, held_back: threading.Event
) -> None:
    requests = some_requests(model, 10)
    readers = read_all(engine, requests, held_back)
    check_rows(decoded)
    assert max(len({row.sequence for row in rows}) for rows in decoded) == 8
    for request, reader in zip(requests, readers, strict=True):
        check_alone(alone, request, reader.pieces)
        assert (reader.progress.n_steered > 0) == bool(request.mix)
    check_accounts(engine)


def test_a_reply_goes_on_while_a_long_prompt_is_read(
    model: Model, engine: Engine, alone: Context, decoded: Rows
) -> None:
    begun = threading.Event()
    short = asks(chat(model, "Hi"), mix_of(model, 1), 60, sampling=WARM, logprobs=20)
    pieces: list[Piece] = []

    def read() -> None:
        for piece in engine.generate(short):
            pieces.append(piece)
            begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(120)
    long = asks(chat(model, "word " * 700), mix_of(model, 2), 4, sampling=WARM, logprobs=20)
    late = Reader(engine, long).done()
    reader.join(60)
    check_rows(decoded)
    assert [len(rows) for rows in decoded].count(128) >= 4
    check_alone(alone, short, pieces)
    check_alone(alone, long, late.pieces)
    check_accounts(engine)


def test_a_prompt_does_not_wait_for_replies_that_nobody_watches(
    model: Model, engine: Engine, decoded: Rows
) -> None:
    """They are decoded on for some tokens at once where there is nothing else to do."""
    request = asks(chat(model, "Hi"), max_tokens=400, sampling=WARM)
    unwatched = threading.Thread(target=lambda: list(engine.generate(request, whole=True)))
    unwatched.start()
    until(lambda: len(decoded) > 30)
    Reader(engine, asks(chat(model, "word " * 700), max_tokens=1)).done()
    unwatched.join(60)
    pieces = [i for i, rows in enumerate(decoded) if len(rows) > 64]
    assert len(pieces) > 4
    assert max(np.diff(pieces)) == 2  # the pieces of the prompt, one token between each two
    check_accounts(engine)


def test_a_cancelled_reply_leaves_the_others_as_they_are(
    model: Model, engine: Engine, alone: Context
) -> None:
    requests = some_requests(model, 6)
    endless = engine.generate(asks(chat(model, "Go on"), mix_of(model, 9), 500, sampling=WARM))
    next(endless)
    readers = [Reader(engine, request) for request in requests]
    endless.close()
    for request, reader in zip(requests, readers, strict=True):
        check_alone(alone, request, reader.done().pieces)
    until(lambda: engine.metrics().n_running == 0)
    check_accounts(engine)


@pytest.mark.parametrize("in_graph", [True, False])
def test_one_that_fails_in_the_midst_takes_no_other_along(
    model: Model, new_engine: Callable[..., Engine], alone: Context, in_graph: bool,
    held_back: threading.Event,
) -> None:  # fmt: skip
    """Its steering is beyond all bounds, and only where it draws its reply."""
    engine = new_engine(n_ctx=2048)
    engine.context.hook.in_graph &= in_graph
    huge = {il: Delta.constant(np.full(model.n_embd, 3e38, np.float32))
            for il in range(model.n_layer)}
    wrong = Mix.of(Steering("huge", model.n_embd, model.n_layer, huge))
    requests = some_requests(model, 5)
    requests.insert(2, asks(chat(model, "This will fail"), 10.0 * wrong, 8))
    readers = [Reader(engine, request) for request in requests]
    until(lambda: engine.metrics().n_waiting == len(requests))
    held_back.set()
    for request, reader in zip(requests, readers, strict=True):
        if request is requests[2]:
            with pytest.raises(EngineError, match="choose a smaller strength"):
                reader.done()
        else:
            check_alone(alone, request, reader.done().pieces)
    check_accounts(engine)


def test_more_sequences_or_fewer_are_as_many_as_asked_for(
    model: Model, new_engine: Callable[..., Engine], alone: Context
) -> None:
    for n_seq in (1, 3):
        engine = new_engine(n_seq=n_seq)
        assert engine.metrics().n_seq == n_seq
        readers = [Reader(engine, request) for request in some_requests(model, 5)]
        for reader in readers:
            reader.done()
            request = reader.request
            check_alone(alone, request, reader.pieces)
        check_accounts(engine)


def test_states_are_counted_and_do_not_grow_with_the_context(
    model: Model, new_engine: Callable[..., Engine]
) -> None:
    small, large = (new_engine(n_ctx=n_ctx).metrics().kv_bytes for n_ctx in (512, 1024))
    one, two = (new_engine(n_seq=n_seq).metrics().kv_bytes for n_seq in (1, 2))
    assert two - one > 1000
    assert (large > small) == model.has_attention


@pytest.mark.parametrize("order", ["reversed", "rotated", "split"])
def test_rows_in_another_order_are_refused(
    model: Model, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if llama.cpp evaluated them so."""
    decode = Context.decode

    def regrouped(self: Context, rows: list[Row], *args: object, **named: object) -> object:
        if len(rows) > 1 and order == "split":
            raise EngineError("block 0 hands out 2 rows for a batch of 4")
        others = rows[::-1] if order == "reversed" else [*rows[1:], rows[0]]
        rows = [row._replace(steering=other.steering)
                for row, other in zip(rows, others, strict=True)]
        return decode(self, rows, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Context, "decode", regrouped)
    with pytest.raises(ModelError, match=r"regroups the rows of .* use n_seq = 1\.$"):
        Engine(model, n_ctx=512, n_threads=1)
    Engine(model, n_ctx=512, n_seq=1, n_threads=1).close()


@pytest.mark.parametrize("model", ["plamo2"], indirect=True)
def test_where_llama_cpp_would_end_the_process_replies_are_made_one_by_one(
    model: Model, new_engine: Callable[..., Engine], alone: Context
) -> None:
    with pytest.raises(ModelError, match=r"cannot decode rows of several .* use n_seq = 1\.$"):
        new_engine(n_seq=2)
    engine = new_engine()
    assert engine.metrics().n_seq == 1
    proofs = Proofs(model)
    assert proofs.all()["sequences"]().startswith("replies are made one by one")
    proofs.close()
    readers = [Reader(engine, request) for request in some_requests(model, 3)]
    for reader in readers:
        check_alone(alone, reader.request, reader.done().pieces)


def test_a_prompt_is_scored_beside_others(
    model: Model, engine: Engine, held_back: threading.Event
) -> None:
    prompt = chat(model, "Score me. " * 60)
    scored = asks(prompt, mix_of(model, 1), 1, logprobs=2, scored=True)
    requests = [scored, *some_requests(model, 4), scored]
    first, *_, last = read_all(engine, requests, held_back)
    engine.forget()
    progress = Progress()
    list(engine.generate(scored, progress))
    for scores in (first.progress.scores, last.progress.scores):
        assert len(scores) == len(prompt.tokens)
        both = zip(scores[1:], progress.scores[1:], strict=True)
        assert np.mean([abs(a.logprob - b.logprob) for a, b in both if a and b]) < 0.02
    check_accounts(engine)


def test_stop_strings_grammars_and_limits_end_replies_as_alone(
    model: Model, engine: Engine, held_back: threading.Event
) -> None:
    from steerplug.engine.constraint import ANY_JSON

    held_back.set()
    prompt = chat(model, "Answer.")
    text = "".join(piece.text for piece in engine.generate(asks(prompt, max_tokens=20)))
    stop = text[8:11]
    requests = [
        asks(prompt, max_tokens=20, stop=(stop,)), asks(prompt, max_tokens=12, grammar=ANY_JSON),
        asks(prompt, mix_of(model, 2), 7), asks(prompt, max_tokens=0),
    ]
    engine.forget()
    solitary = [list(engine.generate(request)) for request in requests]
    engine.forget()
    held_back.clear()
    together = read_all(engine, requests, held_back)
    assert [tokens_of(pieces) for pieces in solitary] == [tuple(r.tokens) for r in together]
    check_accounts(engine)


@pytest.mark.parametrize("model", ["qwen35", "mamba2", "gemma3"], indirect=True)
def test_doctor_says_what_memory_sequences_take(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs = Proofs(model)
    monkeypatch.setattr("steerplug.engine.proofs._MB", 100)  # these are tiny
    each = proofs.context.checkpoint_bytes / 100
    said = proofs.all()["sequences"]()
    kind = "has a state" if model.is_recurrent else f"windows of {model.n_swa} tokens take"
    assert kind in said
    assert f"{each:.1f} MB" in said
    assert "up to 10000000 MB" in said
    proofs.close()
