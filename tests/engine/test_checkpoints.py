"""Checkpoints: what of a prompt is read again where a model cannot be cut back to any prefix."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from steerplug.engine import checkpoints
from steerplug.engine.checkpoints import Checkpoints
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Progress
from steerplug.engine.hook import lay_out
from steerplug.engine.model import Model
from steerplug.engine.request import tokens_of
from steerplug.engine.rows import Row
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.errors import EngineError
from steerplug.steering.value import NOTHING, Mix
from tests.helpers.alone import chat, check_accounts, far_from_alone, steering
from tests.helpers.asking import Reader, asks
from tests.helpers.tiny_models import tiny_model

RECURRENT = ("qwen35", "lfm2", "granitehybrid", "falcon_h1", "jamba", "kimi_linear", "mamba",
             "mamba2", "rwkv7")
WINDOWS = ("gemma3", "gemma2", "gpt_oss", "cohere2")
ONE_OF_EACH = ("qwen35", "mamba2", "gpt_oss")
"""A hybrid, one that is a running state alone, and one of sliding windows."""

N_BEGUN = 16
"""Most tokens with which a template begins a reply, behind the last turn."""

N_CTX = 4096
WARM = Sampling(temperature=1.0, seed=3)
LONG = "All work and no play makes Jack a dull boy. "


@pytest.fixture(scope="module", params=ONE_OF_EACH)
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    model = Model(tiny_model(request.param))
    model.n_ctx_train = N_CTX
    yield model
    model.close()


@pytest.fixture(scope="module")
def shared_engine(model: Model) -> Iterator[Engine]:
    engine = Engine(model, n_ctx=N_CTX, n_threads=1)
    assert isinstance(engine._worker.scheduler.cache, Checkpoints)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """An engine whose cache is empty, and whose accounts hold in the end."""
    shared_engine.forget()
    yield shared_engine
    check_accounts(shared_engine)


@pytest.fixture(scope="module")
def alone(model: Model) -> Iterator[Context]:
    context = Context(model, n_ctx=N_CTX, n_threads=1)
    yield context
    context.close()


@pytest.fixture
def new_engine(model: Model) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**settings: Any) -> Engine:
        made.append(Engine(model, n_threads=1, **{"n_ctx": N_CTX, **settings}))
        return made[-1]

    yield make
    for engine in made:
        check_accounts(engine)
        engine.close()


class Asked:
    """A reply of a few tokens, held against what it is alone."""

    def __init__(
        self, engine: Engine, alone: Context, prompt: Prompt, mix: Mix = NOTHING, n: int = 5
    ) -> None:
        self.prompt, self.progress = prompt, Progress()
        request = asks(prompt, mix, n, sampling=WARM, logprobs=20)
        pieces = list(engine.generate(request, self.progress))
        self.tokens = tokens_of(pieces)
        assert far_from_alone(alone, prompt, mix, pieces) < 1e-3

    @property
    def n_cached(self) -> int:
        return self.progress.n_cached

    @property
    def n_read(self) -> int:
        return len(self.prompt.tokens) - self.n_cached


def mix_of(model: Model, seed: int = 1, scope: Any = "response") -> Mix:
    return steering(model, seed, scope, 30.0, range(model.n_layer))


def goes_on(model: Model, prompt: Prompt, reply: Sequence[int], text: str) -> Prompt:
    """A prompt with the reply to it and a next turn, up to where the assistant answers."""
    end = model.vocab.tokenize(
        f"<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", special=True
    )
    turn = (prompt.boundary, len(prompt.tokens) + len(reply))
    return Prompt((*prompt.tokens, *reply, *end), (*prompt.responses, turn), prompt.has_bos)


def check_turns(model: Model, engine: Engine, alone: Context, text: str) -> None:
    """A second turn, the same changed, the first again, and a third turn of the first chat."""
    mix = mix_of(model)
    first = Asked(engine, alone, chat(model, text), mix)
    second = Asked(engine, alone, goes_on(model, first.prompt, first.tokens, "And then?"), mix)
    n_first = len(first.prompt.tokens) + len(first.tokens)
    assert second.n_cached == n_first - 1  # the last token that was drawn has not been decoded
    other = goes_on(model, first.prompt, first.tokens, "Or so?")
    assert Asked(engine, alone, other, mix).n_cached == n_first - 1
    again = Asked(engine, alone, first.prompt, mix)
    assert again.tokens == first.tokens
    assert again.n_read <= N_BEGUN
    third = goes_on(model, second.prompt, second.tokens, "Go on.")
    n_second = len(second.prompt.tokens) + len(second.tokens)
    assert Asked(engine, alone, third, mix).n_cached == n_second - 1


@pytest.mark.parametrize("model", [*RECURRENT, *WINDOWS], indirect=True)
def test_a_turn_reads_what_is_new(model: Model, engine: Engine, alone: Context) -> None:
    check_turns(model, engine, alone, LONG * 8)


def test_a_turn_of_a_long_chat_reads_what_is_new(
    model: Model, engine: Engine, alone: Context
) -> None:
    check_turns(model, engine, alone, LONG * 145)


def test_a_system_prompt_is_read_once(model: Model, engine: Engine, alone: Context) -> None:
    """By conversations one after another, and by such as come together."""
    rules = model.vocab.tokenize(f"<|im_start|>system\n{LONG * 20}<|im_end|>\n", special=True)

    def under_rules(text: str) -> Prompt:
        return Prompt((*rules, *chat(model, text).tokens))

    assert Asked(engine, alone, under_rules("Hello there"), mix_of(model, 1)).n_cached == 0
    for i, text in enumerate(("Who are you?", "What is this? " * 30, "Hello there")):
        assert Asked(engine, alone, under_rules(text), mix_of(model, i)).n_cached >= len(rules) - 1
    engine.forget()
    readers = [Reader(engine, asks(under_rules(f"{i} ships " * 20))) for i in range(4)]
    assert sorted(reader.done().progress.n_cached > 0 for reader in readers) == [False, *[True] * 3]


def test_where_two_prompts_part_a_third_goes_on(
    model: Model, engine: Engine, alone: Context
) -> None:
    """Whatever it is that they share: no turn ends there."""
    same = LONG * 10
    n_same = len(chat(model, same).tokens) - 12
    cached = [Asked(engine, alone, chat(model, same + word)).n_cached
              for word in ("Cats are here. " * 9, "Dogs do that. " * 9, "Mice may not. " * 9)]
    assert cached[0] == 0
    assert cached[2] >= n_same
    windowed = not model.is_recurrent
    assert windowed or cached[1] == 0


def test_equal_prompts_at_once_are_read_once(
    model: Model, engine: Engine, alone: Context
) -> None:
    prompt = chat(model, LONG * 20)
    requests = [asks(prompt, mix_of(model), 8, sampling=Sampling(1.0, seed=i), logprobs=20)
                for i in range(5)]
    readers = [Reader(engine, request) for request in requests]
    for request, reader in zip(requests, readers, strict=True):
        assert far_from_alone(alone, prompt, request.mix, reader.done().pieces) < 1e-3
    first, *others = sorted(reader.progress.n_cached for reader in readers)
    assert first == 0
    assert min(others) >= len(prompt.tokens) - N_BEGUN


def test_steering_is_part_of_what_has_to_agree(
    model: Model, engine: Engine, alone: Context
) -> None:
    prompt = chat(model, LONG * 10)
    everywhere = [mix_of(model, i, "all") for i in range(2)]
    assert Asked(engine, alone, prompt, everywhere[0]).n_cached == 0
    assert Asked(engine, alone, prompt, everywhere[1]).n_cached == 0
    assert Asked(engine, alone, prompt, 0.5 * everywhere[1]).n_cached == 0
    assert Asked(engine, alone, prompt, everywhere[1]).n_read <= N_BEGUN
    assert Asked(engine, alone, prompt, mix_of(model, 0)).n_cached == 0
    assert Asked(engine, alone, prompt, mix_of(model, 1)).n_read <= N_BEGUN  # replies steer none


def test_a_thought_that_later_prompts_leave_out_costs_no_more_than_its_turn(
    model: Model, engine: Engine, alone: Context
) -> None:
    """The template begins one behind the question, and shows the answer alone afterwards."""
    tokenize = model.vocab.tokenize
    asked = chat(model, LONG * 20).tokens
    first = Asked(engine, alone, Prompt((*asked, *tokenize("<think>\n"))), mix_of(model), 9)
    answer = (*tokenize("So."), *tokenize("<|im_end|>\n", special=True))
    second = (*asked, *answer, *chat(model, "And then? " * 9).tokens)
    assert first.n_cached == 0
    assert Asked(engine, alone, Prompt(second), mix_of(model)).n_cached >= len(asked) - N_BEGUN


def test_a_reply_that_was_cut_short_goes_on(model: Model, engine: Engine, alone: Context) -> None:
    first = Asked(engine, alone, chat(model, LONG * 5), mix_of(model), 9)
    begun = Prompt((*first.prompt.tokens, *first.tokens), begun=len(first.tokens))
    assert Asked(engine, alone, begun, mix_of(model)).n_cached == len(begun.tokens) - 1


def test_memory_of_checkpoints_is_bounded_and_the_least_recently_used_give_way(
    model: Model, engine: Engine, alone: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = engine._worker.scheduler.cache
    assert isinstance(cache, Checkpoints)
    monkeypatch.setattr(checkpoints, "CHECKPOINT_BYTES", 6 * engine.context.checkpoint_bytes)
    prompts = [chat(model, f"{i} {LONG * 5}") for i in range(5)]
    for prompt in (*prompts, prompts[0], *prompts[1:]):
        Asked(engine, alone, prompt)
        assert 0 < cache.checkpoint_bytes <= 6 * engine.context.checkpoint_bytes
    assert Asked(engine, alone, prompts[4]).n_read <= N_BEGUN
    monkeypatch.setattr(checkpoints, "CHECKPOINT_BYTES", 1)
    Asked(engine, alone, chat(model, f"5 {LONG * 5}"))
    assert 0 < cache.checkpoint_bytes <= 4 * engine.context.checkpoint_bytes


def test_what_was_forgotten_is_read_again(model: Model, engine: Engine, alone: Context) -> None:
    prompt = chat(model, LONG * 5)
    Asked(engine, alone, prompt)
    engine.forget()
    assert Asked(engine, alone, prompt).n_cached == 0


def test_checkpoints_go_with_the_cells_of_which_they_are(
    model: Model, new_engine: Callable[..., Engine], alone: Context
) -> None:
    engine = new_engine(n_seq=2)
    prompts = [chat(model, f"{i} {LONG * 5}") for i in range(3)]
    for prompt in prompts:
        Asked(engine, alone, prompt)
    assert [Asked(engine, alone, prompts[i]).n_cached > 0 for i in (2, 0)] == [True, False]


def test_replies_that_outgrow_the_cells_wait_and_go_on(
    model: Model, new_engine: Callable[..., Engine], alone: Context
) -> None:
    engine = new_engine(n_ctx=1024)
    requests = [asks(chat(model, f"{i} {LONG * 8}"), mix_of(model, i), 250, sampling=WARM,
                     logprobs=20) for i in range(5)]
    readers = [Reader(engine, request) for request in requests]
    for request, reader in zip(requests, readers, strict=True):
        assert far_from_alone(alone, request.prompt, request.mix, reader.done().pieces) < 1e-3


def test_any_chats_in_any_order_are_what_they_are_alone(
    model: Model, new_engine: Callable[..., Engine], alone: Context
) -> None:
    """Turns, branches, repetitions, on more chats than there are sequences."""
    rng, engine = np.random.default_rng(5), new_engine(n_seq=3)
    texts = ("Yes.", "No, never. " * 8, "Maybe so, but who knows? " * 3)
    prompts = [chat(model, LONG * 3), chat(model, LONG * 2 + "No. " * 20)]
    n_cached = 0
    for _ in range(30):
        prompt, mix = prompts[rng.integers(len(prompts))], mix_of(model, int(rng.integers(2)))
        asked = Asked(engine, alone, prompt, mix, int(rng.integers(1, 12)))
        n_cached += asked.n_cached
        check_accounts(engine)
        if len(prompt.tokens) < 500:
            text = texts[rng.integers(len(texts))]
            prompts.append(goes_on(model, prompt, asked.tokens, text))
    assert n_cached > 1000


@pytest.mark.parametrize("model", ["qwen35", "lfm2"], indirect=True)
def test_a_decode_that_ends_midway_costs_no_bystander_its_state(model: Model) -> None:
    """The states of two sequences are gathered first, over the place of one that is not meant."""
    context = Context(model, n_ctx=512, n_seq=4, n_threads=1)
    context.hook.in_graph = False  # a callback ends the evaluation where steering fails
    cache, n = Checkpoints(context), 8
    for i in range(4):
        keys = array("q", range(20 * i + 20, 20 * i + 20 + n))
        held = cache.take(keys)
        assert held is not None
        context.decode([Row(key, at, False, None, held.number) for at, key in enumerate(keys)])
        cache.extend(held, keys)
    states = [context.save(held.number) for held in cache.sequences]
    huge = lay_out(1e6 * steering(model, size=1e36, layers=[0]))
    with pytest.raises(EngineError, match="choose a smaller strength"):
        context.decode([Row(5, n, True, huge, 0), Row(6, n, True, None, 3)])
    cache.recover(cache.sequences[::3])
    for held, state in zip(cache.sequences, states, strict=True):
        assert np.array_equal(context.save(held.number), state)
    cache.check()
    context.close()


@pytest.mark.parametrize("model", ["qwen35"], indirect=True)
def test_a_prompt_that_is_read_once_more_can_be_followed(model: Model) -> None:
    """After a fault the beginning is decoded anew, and others may wait for it."""
    context = Context(model, n_ctx=512, n_seq=2, n_threads=1)
    cache, keys = Checkpoints(context), array("q", range(20, 60))
    held = cache.take(keys)
    assert held is not None
    cache.cut(held, 0)
    assert cache.until_kept(held, 40) == 40
    cache.keep_at(held, 30)
    assert cache.until_kept(held, 40) == 30
    context.close()


# Sliding windows


@pytest.mark.parametrize("model", WINDOWS, indirect=True)
def test_windows_take_less_memory_than_all_tokens_and_give_the_same(
    model: Model, new_engine: Callable[..., Engine], alone: Context
) -> None:
    small, full = new_engine(), new_engine(swa_full=True)
    assert small.metrics().kv_bytes < 0.7 * full.metrics().kv_bytes
    assert (small.metrics().n_seq, full.metrics().n_seq) == (8, 32)
    mix = mix_of(model)
    for text in (LONG * 6, "Short. ", LONG * 3):  # all of them beyond the window of 16 tokens
        a, b = (Asked(engine, alone, chat(model, text), mix) for engine in (small, full))
        a, b = (Asked(engine, alone, goes_on(model, a.prompt, a.tokens, "And then?"), mix)
                for engine in (small, full))
        assert a.tokens == b.tokens


@pytest.mark.parametrize("model", ["gemma3"], indirect=True)
def test_windows_as_large_as_the_context_are_kept_full(
    model: Model, new_engine: Callable[..., Engine]
) -> None:
    """There would be nothing to save."""
    engine = new_engine(n_ctx=512)
    assert model.n_swa == 16
    assert engine.context.can_be_cut
    assert engine.metrics().n_seq == 32
    assert new_engine(n_seq=5).metrics().n_seq == 5


@pytest.mark.parametrize("model", ["gemma3"], indirect=True)
def test_a_window_that_still_reaches_back_is_cut(
    model: Model, engine: Engine, alone: Context
) -> None:
    """No checkpoint is near; llama.cpp's cache keeps more than it must, as long as it can."""
    prompt = chat(model, "Hm. " + LONG * 8)
    Asked(engine, alone, prompt)
    other = Prompt((*prompt.tokens[:80], *prompt.tokens[90:]))
    assert Asked(engine, alone, other).n_cached == 80
