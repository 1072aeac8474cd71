"""Where nobody waits to see the next token, a step decodes on, and accounts for it afterwards."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from steerplug.engine.constraint import Choice
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Piece, Progress, Request
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.engine.sampler import Sampling
from steerplug.engine.scheduler import Scheduler
from steerplug.errors import EngineError, ReplyTimeout
from steerplug.steering.value import NOTHING
from tests.helpers.alone import chat, check_accounts, steering, unlike_alone, until

N = 40
CLOSE = 0.5
"""Nats; streamed replies are as far off where cells run short, and under another's steering 11."""

Watch = Callable[[Sequence[Row]], object]


@pytest.fixture
def small(tiny: Model) -> Iterator[Engine]:
    engine = Engine(tiny, n_ctx=512, n_threads=1)
    yield engine
    engine.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the batch stepped and the context decoded."""
    counts = {"step": 0, "decode": 0}
    for owner, name in ((Scheduler, "step"), (Context, "decode")):
        original = getattr(owner, name)

        def counting(*args: object, name: str = name, do: Any = original, **kw: object) -> object:
            counts[name] += 1
            return do(*args, **kw)

        monkeypatch.setattr(owner, name, counting)
    return counts


@pytest.fixture
def before_decodes(monkeypatch: pytest.MonkeyPatch) -> list[Watch]:
    """What is called with the rows of every decode, in the worker, before it."""
    watches: list[Watch] = []
    decode = Context.decode

    def watched(self: Context, rows: Sequence[Row], *args: Any, **kw: Any) -> object:
        for watch in watches:
            watch(rows)
        return decode(self, rows, *args, **kw)

    monkeypatch.setattr(Context, "decode", watched)
    return watches


def asks(model: Model, **settings: Any) -> Request:
    """A reply of N tokens that ends with its room."""
    sampling = Sampling(temperature=0, logit_bias={model.vocab.eos: -100.0})
    asked: dict[str, Any] = {
        "mix": steering(model), "sampling": sampling, "max_tokens": N, **settings,
    }  # fmt: skip
    return Request(chat(model, "Tell me about the sea."), **asked)


def read(engine: Engine, request: Request, *, whole: bool = True) -> tuple[list[Piece], Progress]:
    progress = Progress()
    return list(engine.generate(request, progress, whole=whole)), progress


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("steered", [True, False])
def test_a_whole_reply_is_the_streamed_one_in_fewer_steps(
    tiny: Model, small: Engine, counted: dict[str, int], temperature: float, steered: bool
) -> None:
    request = asks(tiny, mix=steering(tiny) if steered else NOTHING,
                   sampling=Sampling(temperature, seed=3))  # fmt: skip
    pieces, told = read(small, request, whole=False)
    n_decodes = counted["decode"]
    assert counted["step"] >= n_decodes
    small.forget()
    counted.update(step=0, decode=0)
    same, progress = read(small, request)
    assert same == pieces
    assert counted["decode"] == n_decodes
    assert counted["step"] <= 2 + n_decodes // 10
    for name in ("n_prompt", "n_generated", "n_steered", "n_moved", "finish_reason", "left_out"):
        assert getattr(progress, name) == getattr(told, name)
    assert progress.moved == pytest.approx(told.moved)
    check_accounts(small)


def test_the_first_token_is_there_when_it_is_drawn(
    tiny: Model, small: Engine, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asks(tiny)
    read(small, request)
    counted.update(decode=0)
    clock = SimpleNamespace(perf_counter=lambda: counted["decode"])
    monkeypatch.setattr("steerplug.engine.generation.time", clock)
    _, progress = read(small, request)  # of its prompt, all but the last token is in the cache
    assert (progress.seconds_to_first, progress.seconds) == (1, N)


@pytest.mark.parametrize("settings", [
    {"stop": ("qqq",)},
    {"logprobs": 0},
    {"grammar": Choice(("the sea is deep and wide and blue and old and full of fish",))},
])  # fmt: skip
def test_what_needs_a_look_at_every_token_gets_it(
    tiny: Model, small: Engine, counted: dict[str, int], settings: dict[str, object]
) -> None:
    read(small, asks(tiny, **settings))
    assert counted["step"] >= counted["decode"] > 10


def test_it_ends_with_the_model_s_own_end(
    model: Model, engine: Engine, counted: dict[str, int]
) -> None:
    engine.forget()
    asked = asks(model, mix=NOTHING, sampling=Sampling(temperature=0))
    request = replace(asked, prompt=chat(model, "What is the capital of France?"))
    pieces, told = read(engine, request, whole=False)
    n_decodes = counted["decode"]
    assert told.finish_reason == "stop"
    assert told.n_generated == 7
    engine.forget()
    counted.update(decode=0)
    assert read(engine, request)[0] == pieces
    assert counted["decode"] == n_decodes  # nothing was decoded past the end
    check_accounts(engine)


def read_together(
    engine: Engine, requests: Sequence[Request], before_decodes: list[Watch]
) -> list[list[int]]:
    """Ask for whole replies that begin together; return their tokens."""
    gathered, said = threading.Event(), dict[int, list[Piece]]()
    before_decodes.append(lambda _rows: gathered.wait(120))

    def ask(i: int) -> None:
        said[i] = read(engine, requests[i])[0]

    readers = [threading.Thread(target=ask, args=(i,)) for i in range(len(requests))]
    for i, reader in enumerate(readers):
        reader.start()
        until(lambda n=i + 1: engine.metrics().n_waiting + engine.metrics().n_running >= n)
    gathered.set()
    for reader in readers:
        reader.join(60)
    return [[piece.token for piece in said[i] if piece.token is not None] for i in sorted(said)]


def test_several_decode_on_together_until_the_first_ends(
    tiny: Model, small: Engine, before_decodes: list[Watch], counted: dict[str, int],
    tiny_context: Context,
) -> None:  # fmt: skip
    """The steering of each is its own, and who is left decodes on."""
    mixes = [NOTHING, steering(tiny, 1), steering(tiny, 2)]
    requests = [asks(tiny, mix=mix, max_tokens=N - 9 * i) for i, mix in enumerate(mixes)]
    replies = read_together(small, requests, before_decodes)
    assert counted["decode"] >= N
    assert counted["step"] < N // 2
    for request, tokens in zip(requests, replies, strict=True):
        assert len(tokens) == request.max_tokens
        assert unlike_alone(tiny_context, request.prompt, request.mix, tokens) < CLOSE
    assert unlike_alone(tiny_context, requests[1].prompt, mixes[1], replies[2]) > 4 * CLOSE
    check_accounts(small)


def test_they_decode_on_no_further_than_cells_reach(
    tiny: Model, before_decodes: list[Watch], counted: dict[str, int], tiny_context: Context
) -> None:
    """Who joined last then waits, and goes on where it was."""
    small = Engine(tiny, n_ctx=1, n_threads=1)  # llama.cpp makes it 256
    try:
        mixes = [steering(tiny, 1, "all"), steering(tiny, 2, "all")]
        requests = [asks(tiny, mix=mix, max_tokens=120) for mix in mixes]
        assert sum(len(request.prompt.tokens) + 120 for request in requests) > small.n_ctx
        for request, tokens in zip(
            requests, read_together(small, requests, before_decodes), strict=True
        ):
            assert len(tokens) == 120
            assert unlike_alone(tiny_context, request.prompt, request.mix, tokens) < CLOSE
        assert counted["step"] < counted["decode"] // 3
        check_accounts(small)
    finally:
        small.close()


def test_one_that_arrives_meanwhile_joins_at_the_next_decode(
    tiny: Model, small: Engine, before_decodes: list[Watch]
) -> None:
    n_sequences: list[int] = []
    other = threading.Thread(target=lambda: read(small, asks(tiny, max_tokens=2), whole=False))

    def watch(rows: Sequence[Row]) -> None:
        n_sequences.append(len({row.sequence for row in rows}))
        if len(n_sequences) == 5:
            other.start()
            until(lambda: small.metrics().n_waiting == 1)

    before_decodes.append(watch)
    read(small, asks(tiny))
    other.join(60)
    assert n_sequences[4:7] == [1, 2, 2]
    check_accounts(small)


async def test_one_that_is_cancelled_meanwhile_ends_at_once(
    tiny: Model, small: Engine, before_decodes: list[Watch]
) -> None:
    loop, n_decodes, gone = asyncio.get_running_loop(), 0, threading.Event()

    async def ask() -> None:
        try:
            async for _ in small.agenerate(asks(tiny), whole=True):
                pass
        finally:
            gone.set()

    asking = asyncio.create_task(ask())

    def watch(_rows: Sequence[Row]) -> None:
        nonlocal n_decodes
        n_decodes += 1
        if n_decodes == 5:
            loop.call_soon_threadsafe(asking.cancel)
            assert gone.wait(120)

    before_decodes.append(watch)
    with suppress(asyncio.CancelledError):
        await asking
    await asyncio.to_thread(until, lambda: small.metrics().n_running == 0)
    assert n_decodes == 5
    check_accounts(small)


def test_one_that_takes_too_long_ends_in_the_midst(
    tiny: Model, small: Engine, before_decodes: list[Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_decodes, now = 0, time.perf_counter()

    def watch(_rows: Sequence[Row]) -> None:
        nonlocal n_decodes
        n_decodes += 1
        if n_decodes == 5:  # an hour passes
            monkeypatch.setattr(time, "perf_counter", lambda: 3600.0 + now)

    before_decodes.append(watch)
    with pytest.raises(ReplyTimeout, match="longer than 60 seconds"):
        read(small, asks(tiny, timeout=60.0))
    assert n_decodes == 5


def test_a_decode_that_fails_meanwhile_is_the_fault_of_one(
    tiny: Model, small: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was decoded before it counts, and the sequence is given up."""
    decode, n_decodes = Context.decode, 0

    def failing(self: Context, rows: Sequence[Row]) -> object:
        nonlocal n_decodes
        n_decodes += 1
        if n_decodes == 5:
            raise EngineError("planted")
        return decode(self, rows)

    monkeypatch.setattr(Context, "decode", failing)
    progress = Progress()
    with pytest.raises(EngineError, match="planted"):
        list(small.generate(asks(tiny), progress, whole=True))
    assert progress.n_generated == 4
    check_accounts(small)
    assert len(read(small, asks(tiny))[0]) == N
