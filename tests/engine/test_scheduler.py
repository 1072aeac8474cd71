"""Many requests in one batch: mixes, shared cells, fairness, cancelling, limits, death, close."""

import asyncio
import gc
import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Piece, Progress, Request
from steerplug.engine.generation import Generation
from steerplug.engine.model import Model
from steerplug.engine.prefix_cache import PrefixCache
from steerplug.engine.rows import Row
from steerplug.engine.sampler import Sampling
from steerplug.engine.scope import Prompt
from steerplug.errors import (
    EngineBusy,
    EngineError,
    ModelError,
    ReplyTimeout,
    RequestError,
    SteeringError,
)
from steerplug.steering.value import NOTHING, Delta, Mix, Steering
from tests.helpers.alone import NOISE, chat, check_accounts, far_from_alone, steering, until
from tests.helpers.asking import Reader, Rows, asks, read_all


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine], list[int]]:
    """How many replies have joined an engine's batch and were not sent back, at every decode."""

    def watch(engine: Engine) -> list[int]:
        counts: list[int] = []
        decode = engine.context.decode

        def watched(rows: Sequence[Row]) -> object:
            now = engine.metrics()
            counts.append(now.n_running + now.n_finished)
            return decode(rows)

        monkeypatch.setattr(engine.context, "decode", watched)
        return counts

    return watch


def fall(counts: Sequence[int]) -> bool:
    return any(now < before for before, now in pairwise(counts))


# Steering per sequence


@pytest.mark.parametrize(("which", "alone"), [("model", "context"), ("tiny", "tiny_context")])
def test_requests_of_different_mixes_share_a_batch_and_none_feels_another(
    request: pytest.FixtureRequest, which: str, alone: str, decoded: Rows,
    held_back: threading.Event,
) -> None:  # fmt: skip
    """Every mix follows every prompt on the tiny model, and one of them on the real one."""
    model, context = request.getfixturevalue(which), request.getfixturevalue(alone)
    sea = chat(model, "Tell me something about the sea.")
    talk = chat(model, "Name a colour.", "My favourite colour is blue.", "Why do people like it?")
    a, b = steering(model, 1), steering(model, 2)
    mixes = [NOTHING, a, b, 0.5 * a - b, steering(model, 3, "all"), steering(model, 4, "front")]
    asked = [asks(prompt, mix, 8, logprobs=20) for mix in mixes for prompt in (sea, talk)]
    if which == "model":
        asked = [asked[2 * i + i % 2] for i in range(len(mixes))]
    with closing(Engine(model, n_ctx=1024, n_threads=1)) as engine:
        readers = read_all(engine, asked, held_back)
        assert max(len({row.sequence for row in rows}) for rows in decoded) == len(asked)
        for one, reader in zip(asked, readers, strict=True):
            assert far_from_alone(context, one.prompt, one.mix, reader.pieces) < NOISE
            assert (reader.progress.n_steered > 0) == bool(one.mix)
            assert (reader.progress.moved > 0) == bool(one.mix)
        (other,) = (reader for reader in readers if reader.request.mix == Mix.of(a)
                    and reader.request.prompt == talk)  # fmt: skip
        assert far_from_alone(context, talk, b, other.pieces) > 10 * NOISE
        check_accounts(engine)


def test_a_reply_in_company_is_to_the_bit_what_it_is_alone(
    tiny: Model, new_tiny: Callable[..., Engine], held_back: threading.Event
) -> None:
    """As long as cells lie in order, which they do here."""
    warm = Sampling(temperature=1.0, seed=7)
    requests = [
        asks(chat(tiny, question), steering(tiny, i), 10, sampling=warm, logprobs=3)
        for i, question in enumerate(("What is a cat?", "Name three colours.", "Who are you?"))
    ]
    together = read_all(new_tiny(), requests, held_back)
    for request, reader in zip(requests, together, strict=True):
        assert list(new_tiny().generate(request)) == reader.pieces


def test_cells_lie_in_order_even_where_sequences_gave_way(
    tiny: Model, new_tiny: Callable[..., Engine]
) -> None:
    """Else the last bit of attention's sums would differ, and with it, visibly, the logits."""
    engine, tokenize = new_tiny(n_seq=2), tiny.vocab.tokenize
    texts = ("Once upon a time there was a king who had", "The sea is deep and blue and nobody",
             "The sea is deep and blue, but ships", "Once upon a time there was a queen")
    for text in texts:  # the third begins with cells of the second, in the place of the first
        prompt = Prompt((tiny.vocab.bos, *tokenize("." if "O" in text else "-"), *tokenize(text)))
        request = asks(prompt, max_tokens=6, logprobs=3)
        progress = Progress()
        assert list(engine.generate(request, progress)) == list(new_tiny().generate(request))
        assert (progress.n_cached > 6) == (text == texts[2])


def test_moved_and_steered_are_counted_for_each_reply_alone(
    tiny: Model, new_tiny: Callable[..., Engine], held_back: threading.Event
) -> None:
    sea = chat(tiny, "Tell me something about the sea.")
    requests = [asks(sea, strength * steering(tiny), 6) for strength in (0.0, 0.5, 1.0)]
    together = read_all(new_tiny(), requests, held_back)
    for request, reader in zip(requests, together, strict=True):
        alone = Progress()
        list(new_tiny().generate(request, alone))
        assert reader.progress.n_steered == alone.n_steered
        assert reader.progress.n_moved == alone.n_moved
        assert reader.progress.moved == pytest.approx(alone.moved, rel=1e-3)


# Shared cells


def test_equal_prompts_that_come_together_are_computed_once(
    tiny: Model, new_tiny: Callable[..., Engine], decoded: Rows, held_back: threading.Event
) -> None:
    """What `n` choices of one prompt are: the unsteered prompt is shared by all mixes."""
    prompt = chat(tiny, "Here is a long story about the sea and the wind. " * 6)
    n = len(prompt.tokens)
    mixes = [NOTHING, *(steering(tiny, seed) for seed in range(5))]
    engine = new_tiny()
    readers = read_all(engine, [asks(prompt, mix, 4) for mix in mixes], held_back)
    assert [reader.progress.n_cached for reader in readers] == [0] + [n - 1] * 5
    assert sum(len(rows) for rows in decoded[1:]) == n + 5 + 6 * 3
    metrics = engine.metrics()
    assert (metrics.prompt_tokens, metrics.cached_tokens) == (6 * n, 5 * (n - 1))
    assert metrics.cells_used == n + 5 + 6 * 3
    check_accounts(engine)


def test_the_least_recently_used_sequence_gives_way(
    tiny: Model, new_tiny: Callable[..., Engine]
) -> None:
    engine = new_tiny(n_seq=3)
    prompts = [chat(tiny, f"{word} is a word.") for word in ("Sea", "Moon", "Rain", "Ice")]

    def n_cached(i: int) -> int:
        progress = Progress()
        list(engine.generate(asks(prompts[i], max_tokens=2), progress))
        return progress.n_cached

    beginning = n_cached(0) or n_cached(1)  # what all of them have in common
    n_cached(2)
    whole = len(prompts[0].tokens) - 1
    assert n_cached(1) == len(prompts[1].tokens) - 1
    assert beginning < whole
    assert n_cached(3) == beginning
    assert n_cached(3) == len(prompts[3].tokens) - 1
    assert n_cached(0) == beginning
    check_accounts(engine)


def test_what_was_forgotten_is_computed_again(
    tiny: Model, new_tiny: Callable[..., Engine]
) -> None:
    engine, sea = new_tiny(), asks(chat(tiny, "Sea?"), steering(tiny), 60)

    def n_cached() -> int:
        progress = Progress()
        list(engine.generate(Request(sea.prompt, max_tokens=1), progress))
        return progress.n_cached

    n = len(sea.prompt.tokens)
    expected = list(engine.generate(sea))
    assert n_cached() == n - 1
    engine.forget()
    assert (n_cached(), n_cached()) == (0, n - 1)
    running = engine.generate(sea)
    first = next(running)
    engine.forget()
    assert [first, *running] == expected
    check_accounts(engine)


def test_memory_is_bounded_and_replies_that_outgrow_it_wait_and_go_on(
    tiny: Model, new_tiny: Callable[..., Engine], tiny_context: Context,
    members: Callable[[Engine], list[int]], held_back: threading.Event,
) -> None:  # fmt: skip
    """Five replies of some 60 cells each in 256 cells: some must be sent back in between."""
    engine = new_tiny(256)
    counts = members(engine)
    bias = Sampling(temperature=0, logit_bias={tiny.vocab.eos: -100.0})
    requests = [
        asks(chat(tiny, f"Tell me about the {word}."), steering(tiny, i), 45, sampling=bias,
             logprobs=20)
        for i, word in enumerate(("sea", "sky", "sun", "ice", "rain"))
    ]  # fmt: skip
    readers = read_all(engine, requests, held_back)
    for request, reader in zip(requests, readers, strict=True):
        assert len(reader.tokens) == 45
        assert far_from_alone(tiny_context, request.prompt, request.mix, reader.pieces) < NOISE
    assert fall(counts)
    check_accounts(engine)


def test_a_reply_that_was_sent_back_still_knows_what_it_has_said(
    tiny: Model, new_tiny: Callable[..., Engine], members: Callable[[Engine], list[int]],
    held_back: threading.Event,
) -> None:  # fmt: skip
    """No token comes twice under such a penalty, nor one of the prompt."""
    engine = new_tiny(256)
    counts = members(engine)
    once = Sampling(
        temperature=0, presence_penalty=100.0, repeat_last_n=-1,
        logit_bias={tiny.vocab.eos: -100.0},
    )  # fmt: skip
    requests = [
        asks(chat(tiny, f"Tell me about the {word}."), max_tokens=45, sampling=once)
        for word in ("sea", "sky", "sun", "ice", "rain")
    ]
    readers = read_all(engine, requests, held_back)
    for request, reader in zip(requests, readers, strict=True):
        tokens = reader.tokens
        assert len(set(tokens)) == len(tokens) == 45
        assert not set(tokens) & set(request.prompt.tokens)
    assert fall(counts)


# Fairness


def test_a_short_prompt_that_comes_late_does_not_wait_for_a_long_one(
    model: Model, new_engine: Callable[..., Engine], decoded: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    engine = new_engine(2048)
    monkeypatch.setattr(engine.context, "n_batch", 32)
    long = Prompt(tuple(model.vocab.tokenize("once upon a time there was a king " * 25)))
    first = Reader(engine, asks(long, max_tokens=2))
    until(lambda: len(decoded) > 1)
    late = Reader(engine, asks(chat(model, "Who are you?"), max_tokens=3)).done()
    assert first.is_alive()
    assert not first.pieces
    assert first.done().progress.n_generated == 2
    sizes = [len(rows) for rows in decoded]
    assert max(sizes) <= 32
    assert late.progress.n_generated > 0


def test_a_running_reply_goes_on_while_a_long_prompt_is_read(
    model: Model, new_engine: Callable[..., Engine], decoded: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    engine = new_engine(2048)
    monkeypatch.setattr("steerplug.engine.batching.PROMPT_ROWS_BESIDE_REPLIES", 16)
    bias = Sampling(temperature=0, logit_bias={model.vocab.eos: -100.0})
    running = Reader(engine, asks(chat(model, "Hello."), max_tokens=30, sampling=bias))
    until(lambda: len(running.pieces) > 2)
    before = len(decoded)
    long = Prompt(tuple(model.vocab.tokenize("once upon a time there was a king " * 20)))
    Reader(engine, asks(long, max_tokens=1)).done()
    running.done()
    beside = [rows for rows in decoded[before:] if len(rows) > 1]
    assert len(beside) >= len(long.tokens) // 16
    assert all(sum(row.output for row in rows) >= 1 and len(rows) <= 17 for rows in beside)


# Leaving early, and limits


def test_a_closed_iterator_frees_its_sequence_at_once(
    model: Model, new_engine: Callable[..., Engine], decoded: Rows
) -> None:
    engine = new_engine(2048)
    with closing(engine.generate(asks(chat(model, "Hello."), max_tokens=None))) as reply:
        next(reply)
    until(lambda: engine.metrics().n_running == 0)
    assert len(decoded) < 10
    check_accounts(engine)


def test_more_waiting_requests_than_the_queue_holds_are_refused(
    tiny: Model, new_tiny: Callable[..., Engine], held_back: threading.Event
) -> None:
    engine = new_tiny(n_queue=2)
    hello = asks(chat(tiny, "Hello."), max_tokens=2)
    readers = []
    for n in (1, 2):
        readers.append(Reader(engine, hello))
        until(lambda n=n: engine.metrics().n_waiting == n)
    with pytest.raises(EngineBusy, match=r"^2 requests are waiting, .*larger n_queue\.$"):
        next(engine.generate(hello))
    held_back.set()
    for reader in readers:
        reader.done()
    assert len(list(engine.generate(hello))) == 2


def test_a_request_of_one_sequence_waits_for_its_turn(
    tiny: Model, new_tiny: Callable[..., Engine], decoded: Rows, held_back: threading.Event
) -> None:
    engine = new_tiny(n_seq=1)
    requests = [asks(chat(tiny, f"{word}?"), steering(tiny), 4) for word in ("Sea", "Sky")]
    readers = read_all(engine, requests, held_back)
    assert all(len({row.sequence for row in rows}) == 1 for rows in decoded)
    for request, reader in zip(requests, readers, strict=True):
        assert reader.pieces == list(new_tiny().generate(request))


@pytest.mark.parametrize("waits", [True, False])
def test_a_timeout_ends_a_reply_that_waits_or_runs(
    model: Model, new_engine: Callable[..., Engine], waits: bool
) -> None:
    engine = new_engine(2048, n_seq=1)
    bias = Sampling(temperature=0, logit_bias={model.vocab.eos: -100.0})
    endless = asks(chat(model, "Hello."), max_tokens=None, sampling=bias)
    timed = Request(endless.prompt, sampling=bias, timeout=0.3)
    other = engine.generate(endless)
    if waits:
        next(other)
    with pytest.raises(ReplyTimeout, match=r"took longer than 0\.3 seconds"):
        list(engine.generate(timed))
    other.close()
    until(lambda: engine.metrics().n_running == 0)
    check_accounts(engine)


def test_an_error_of_one_request_spares_the_others_of_its_batch(
    tiny: Model, new_tiny: Callable[..., Engine], held_back: threading.Event
) -> None:
    engine, sea = new_tiny(), chat(tiny, "Tell me something about the sea.")
    good = [asks(sea, steering(tiny, seed), 6) for seed in (1, 2)]
    narrow = Steering("narrow", 64, 5, {0: Delta.constant(np.ones(64, np.float32))})
    bad = [asks(sea, 1e30 * steering(tiny, 3)), asks(sea, Mix.of(narrow))]
    readers = []
    for i, request in enumerate((good[0], *bad, good[1])):
        readers.append(Reader(engine, request))
        until(lambda n=i + 1: engine.metrics().n_waiting == n)
    held_back.set()
    for reader in (readers[0], readers[3]):
        assert reader.done().pieces == list(new_tiny().generate(reader.request))
    for reader, message in zip(readers[1:3], ("block 1 infinite", "this model"), strict=True):
        with pytest.raises((EngineError, SteeringError), match=message):
            reader.done()
    check_accounts(engine)


@pytest.mark.parametrize("token", [-1, 49152, 2**32 + 5])
def test_a_token_that_the_model_does_not_have_is_refused(
    engine: Engine, model: Model, token: int
) -> None:
    biased = asks(chat(model, "Hi."), sampling=Sampling(logit_bias={token: 1.0}))
    for request in (biased, asks(Prompt((1, token)))):
        with pytest.raises(RequestError, match=rf"names token {token}; .* tokens 0 to 49151\.$"):
            next(engine.generate(request))


# Death and close


def test_the_worker_s_death_is_told_to_everyone_and_the_engine_starts_anew(
    tiny: Model, new_tiny: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    engine = new_tiny(1024)
    requests = [asks(chat(tiny, word), steering(tiny, i), 6) for i, word in enumerate("ABC")]
    expected = [list(new_tiny().generate(request)) for request in requests]
    list(engine.generate(requests[0]))

    def dies(*_: object) -> None:
        raise MemoryError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(Context, "decode", dies)
        readers = [Reader(engine, request) for request in requests]
        for reader in readers:
            with pytest.raises(EngineError, match=r"the engine stopped \(MemoryError.*anew\.$"):
                reader.done()
    assert "the engine's worker ended" in caplog.text
    check_accounts(engine)
    assert [list(engine.generate(request)) for request in requests] == expected


def test_a_closed_engine_frees_its_context_and_ends_its_thread(model: Model) -> None:
    before = threading.active_count()
    engine = Engine(model, n_ctx=512, n_threads=1)
    list(engine.generate(asks(chat(model, "Hi."), max_tokens=1)))
    assert threading.active_count() == before + 1
    engine.close()
    assert threading.active_count() == before
    with pytest.raises(EngineError, match="closed"):
        engine.context.clear()


def test_an_engine_that_is_let_go_of_ends_its_thread(model: Model) -> None:
    before = threading.active_count()
    engine = Engine(model, n_ctx=512, n_threads=1)
    with closing(engine.generate(asks(chat(model, "Hi."), max_tokens=None))) as reply:
        next(reply)
    assert threading.active_count() > before
    del engine, reply
    until(lambda: threading.active_count() == before)
    assert threading.active_count() == before


# On an event loop


async def test_async_replies_are_those_of_threads(
    tiny: Model, new_tiny: Callable[..., Engine]
) -> None:
    requests = [
        asks(chat(tiny, word), steering(tiny, i), 8) for i, word in enumerate(("Sea", "Sky"))
    ]
    expected = [list(new_tiny().generate(request)) for request in requests]
    engine = new_tiny()

    async def read(request: Request) -> list[Piece]:
        return [piece async for piece in engine.agenerate(request)]

    assert await asyncio.gather(*map(read, requests)) == expected
    with pytest.raises(RequestError, match="the prompt is empty"):
        await read(asks(Prompt(())))


@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_an_async_reply_that_nobody_reads_any_more_is_ended(
    model: Model, new_engine: Callable[..., Engine], way: str
) -> None:
    engine = new_engine(2048)
    bias = Sampling(temperature=0, logit_bias={model.vocab.eos: -100.0})
    reply = engine.agenerate(asks(chat(model, "Hi."), max_tokens=None, sampling=bias))
    await anext(reply)
    assert engine.metrics().n_running == 1
    if way == "close":
        await reply.aclose()
    else:

        async def read() -> None:
            async for _ in reply:
                pass

        task = asyncio.ensure_future(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for _ in range(6000):
        if engine.metrics().n_running == 0:
            break
        await asyncio.sleep(0.01)
    check_accounts(engine)


def test_a_reply_whose_event_loop_is_gone_ends_quietly(
    model: Model, new_engine: Callable[..., Engine]
) -> None:
    engine = new_engine(1024)

    async def begin() -> None:
        await anext(engine.agenerate(asks(chat(model, "Hi."), max_tokens=20)))

    asyncio.run(begin())
    until(lambda: engine.metrics().n_running == 0)
    assert len(list(engine.generate(asks(chat(model, "Hi."), max_tokens=3)))) == 3


# Sizes and metrics


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"n_seq": 0}, "n_seq is 0; give at least 1."),
        ({"n_queue": 0}, "n_queue is 0; give at least 1."),
        ({"n_cells": 300}, "n_cells is 300, too few for one conversation of n_ctx = 512 tokens; "
                           "raise it, or lower n_ctx."),
    ],
)  # fmt: skip
def test_a_size_that_makes_no_sense_is_refused(
    model: Model, sizes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError) as refusal:
        Engine(model, n_ctx=512, **sizes)
    assert str(refusal.value) == sentence


def test_a_context_smaller_than_its_sequences_is_as_small_as_llama_cpp_makes_them(
    model: Model, new_engine: Callable[..., Engine]
) -> None:
    """With fewer cells, or rows of a batch, than sequences, llama.cpp would end the process."""
    engine = new_engine(1)
    assert engine.n_ctx == 256
    assert len(list(engine.generate(asks(chat(model, "Hi."), max_tokens=3)))) == 3
    context = Context(model, n_ctx=64, n_batch=2, n_seq=9, n_threads=1)
    assert context.n_batch == 9
    context.close()


def test_metrics_say_what_was_done_and_what_is_held(
    model: Model, new_engine: Callable[..., Engine]
) -> None:
    engine = new_engine(n_cells=1024, n_seq=4)
    empty = engine.metrics()
    assert (empty.generated_tokens, empty.cells_used, empty.tokens_per_second) == (0, 0, 0.0)
    assert (empty.n_cells, empty.n_seq) == (1024, 4)
    n_embd_kv = 64 * 3  # of SmolLM2: three key-value heads of 64
    assert empty.kv_bytes == pytest.approx(1024 * model.n_layer * 2 * 2 * n_embd_kv, rel=0.05)
    prompt = chat(model, "Hi.")
    for _ in range(2):
        list(engine.generate(asks(prompt, max_tokens=5)))
    full = engine.metrics()
    n = len(prompt.tokens)
    assert (full.n_finished, full.generated_tokens) == (2, 10)
    assert (full.prompt_tokens, full.cached_tokens) == (2 * n, n - 1)
    assert (full.cells_used, full.sequences_used) == (n + 1 + 2 * 4, 2)
    assert full.tokens_per_second > 0
    assert np.isfinite(full.tokens_per_second)


# Bounds


def test_nothing_is_kept_of_replies_that_have_ended(
    tiny: Model, new_tiny: Callable[..., Engine]
) -> None:
    engine, prompt = new_tiny(), chat(tiny, "Hi.")
    for i in range(4):
        list(engine.generate(asks(prompt, (1 + i) * steering(tiny, 1, "all", size=5.0), 2)))
    gc.collect()
    assert not any(type(thing) is Generation for thing in gc.get_objects())
    check_accounts(engine)


def test_of_many_ways_to_steer_only_the_latest_are_known_again(
    tiny: Model, new_tiny: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which loses cells that might have been used again, and never gives wrong ones."""
    monkeypatch.setattr("steerplug.engine.prefix_cache._MAX_NAMES", 4)
    engine, prompt = new_tiny(), chat(tiny, "Hi.")
    whole: dict[int, list[Piece]] = {}

    def n_cached(i: int) -> int:
        progress = Progress()
        request = asks(prompt, (1 + i) * steering(tiny, 1, "all", size=5.0), 2)
        pieces = list(engine.generate(request, progress))
        assert whole.setdefault(i, pieces) == pieces
        return progress.n_cached

    n_cached(0)
    assert n_cached(0) == len(prompt.tokens) - 1
    assert [n_cached(i) for i in range(1, 12)] == [1] * 11  # the first token, which none steers
    assert n_cached(0) == 1
    check_accounts(engine)


@pytest.mark.parametrize("wrong", ["a cell too many", "a cell too few", "a user too many"])
def test_accounts_that_do_not_add_up_are_noticed(
    tiny_context: Context, wrong: str
) -> None:
    tiny_context.clear()
    cache, rows = PrefixCache(tiny_context), [Row(5, i, output=True) for i in range(3)]
    held = cache.take(array("q"))
    assert held is not None
    tiny_context.decode(rows)
    if wrong != "a cell too few":
        cache.extend(held, array("q", [5, 5, 5]))
        cache.check()
    if wrong == "a cell too many":
        tiny_context.keep(2, held.number)
    elif wrong == "a user too many":
        held.slots[0] = held.slots[1]
    with pytest.raises(EngineError, match=r"account says\.$"):
        cache.check()
