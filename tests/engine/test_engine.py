"""The generation loop on the real model: the cache rule, open replies, limits, errors."""

import gc
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import Llama
from llama_cpp._internals import LlamaSampler

from steerplug.engine import scope
from steerplug.engine.engine import Engine, Piece, Progress, Request
from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.model import Model
from steerplug.engine.sampler import Sampling
from steerplug.engine.scope import Prompt
from steerplug.errors import ContextOverflow, EngineError, RequestError, SteeringError
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Scope, Steering
from tests.helpers.alone import LAYERS, chat
from tests.helpers.alone import steering as random_steering

GREEDY = Sampling(temperature=0)


def relative(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def steering(model: Model, seed: int = 1, scope: Scope = "response", size: float = 25.0) -> Mix:
    mix: Mix = random_steering(model, seed, scope, size)
    return mix


@dataclass
class Reply:
    tokens: list[int]
    text: str
    progress: Progress
    pieces: list[Piece]
    logits: Array


def generate(engine: Engine, request: Request) -> Reply:
    progress = Progress()
    pieces = list(engine.generate(request, progress))
    tokens = [piece.token for piece in pieces if piece.token is not None]
    logits = engine.context.logits(0) if len(tokens) > 1 else np.zeros(0, np.float32)
    return Reply(tokens, "".join(p.text for p in pieces), progress, pieces, logits)


def asks(
    prompt: Prompt,
    mix: Mix = NOTHING,
    max_tokens: int | None = 12,
    stop: Sequence[str] = (),
    sampling: Sampling = GREEDY,
) -> Request:
    return Request(prompt, mix, sampling, stop, max_tokens)


def about_the_sea(model: Model) -> Prompt:
    return chat(model, "Tell me something about the sea.")


def about_a_colour(model: Model) -> Prompt:
    """A conversation with an earlier reply, which scope "response" steers as well."""
    return chat(
        model, "Name a colour.", "My favourite colour is a deep blue.", "Why do people like it?"
    )


@pytest.fixture(scope="module")
def sea(model: Model) -> Prompt:
    return about_the_sea(model)


@pytest.fixture(scope="module")
def talk(model: Model) -> Prompt:
    return about_a_colour(model)


@pytest.fixture(scope="module")
def tiny_sea(tiny: Model) -> Prompt:
    return about_the_sea(tiny)


@pytest.fixture(scope="module")
def tiny_talk(tiny: Model) -> Prompt:
    return about_a_colour(tiny)


# Unsteered, against llama-cpp-python


@pytest.mark.parametrize("question", ["Name three colours.", "Tell me something about the sea."])
def test_a_greedy_reply_is_llama_cpp_python_s(
    engine: Engine, model: Model, model_path: Path, question: str
) -> None:
    prompt, n = chat(model, question), 24
    theirs = Llama(  # with flash attention, which llama.cpp itself chooses when it is left to it
        str(model_path), n_ctx=256, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False
    )
    expected: list[int] = []
    for token in theirs.generate(prompt.tokens, temp=0.0, repeat_penalty=1.0):
        if token == theirs.token_eos() or len(expected) == n:
            break
        expected.append(token)
    theirs.close()
    reply = generate(engine, asks(prompt, max_tokens=n))
    assert reply.tokens == expected
    assert reply.progress.finish_reason == ("length" if len(expected) == n else "stop")
    assert reply.text == model.vocab.text(expected)


PENALISED: dict[str, Any] = {
    "repeat_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.6, "repeat_last_n": 40,
    "dry_multiplier": 1.5, "dry_penalty_last_n": -1,
}  # fmt: skip


def penalised_by_llama_cpp(theirs: Any, tokens: Sequence[int], seed: int, n: int) -> list[int]:
    """What llama-cpp-python draws by the chain that llama.cpp's server makes of `PENALISED`."""
    sampler = LlamaSampler()
    sampler.add_penalties(theirs.n_vocab(), 40, 1.3, 0.4, 0.6)
    sampler.add_dry(theirs._model, 1.5, 1.75, 2, 256, ["\n", ":", '"', "*"])
    sampler.add_top_k(40)
    sampler.add_top_p(0.95)
    sampler.add_min_p(0.05)
    sampler.add_temp(1.2)
    sampler.add_dist(seed)
    for token in tokens:
        sampler.accept(token)
    theirs.reset()
    theirs.eval(tokens)
    drawn = list[int]()
    while len(drawn) < n and (token := sampler.sample(theirs._ctx)) != theirs.token_eos():
        drawn.append(token)
        theirs.eval([token])
    sampler.close()
    return drawn


def test_penalties_count_prompt_and_reply_as_llama_cpp_s_server_does(
    engine: Engine, model: Model, model_path: Path
) -> None:
    prompt = chat(model, "Say rain, rain and rain again: rain, rain, rain.")
    theirs = Llama(
        str(model_path), n_ctx=256, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False
    )
    replies = []
    for seed in (3, 4):
        sampling = Sampling(temperature=1.2, seed=seed, **PENALISED)
        replies.append(generate(engine, asks(prompt, max_tokens=20, sampling=sampling)).tokens)
        assert replies[-1] == penalised_by_llama_cpp(theirs, prompt.tokens, seed, 20)
    theirs.close()
    assert replies[0] != replies[1]


def test_replies_side_by_side_share_no_memory_of_what_was_drawn(
    tiny: Model, new_tiny: Callable[..., Engine]
) -> None:
    prompt = chat(tiny, "Say rain, rain and rain again.")
    ways = (PENALISED, {"mirostat": 2, "mirostat_tau": 3.0}, {"dry_multiplier": 4.0}, PENALISED)
    requests = [
        asks(prompt, max_tokens=12, sampling=Sampling(temperature=1.5, seed=i, **way))
        for i, way in enumerate(ways)
    ]
    alone = [generate(new_tiny(), request).tokens for request in requests]
    engine = new_tiny(1024)

    def drawn(request: Request) -> list[int]:
        return [piece.token for piece in engine.generate(request) if piece.token is not None]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(drawn, requests)) == alone


# The cache rule


def the_mixes(model: Model, scope: Scope) -> dict[str, Mix]:
    a, b = steering(model, 1, scope), steering(model, 2, scope)
    return {"a": a, "b": b, "nothing": NOTHING, "half a": 0.5 * a, "a - b": a - b}


ORDER = ("a", "b", "nothing", "a", "half a", "a - b", "a", "nothing")


@pytest.mark.parametrize(
    ("which", "maker", "scope"),
    [
        ("model", "new_engine", "response"),
        ("tiny", "new_tiny", "response"),
        ("tiny", "new_tiny", "all"),
    ],
)
def test_what_was_generated_before_never_changes_a_reply(
    request: pytest.FixtureRequest, which: str, maker: str, scope: Scope
) -> None:
    model: Model = request.getfixturevalue(which)
    mixes, talk = the_mixes(model, scope), about_a_colour(model)
    new: Callable[..., Engine] = request.getfixturevalue(maker)
    fresh = {name: generate(new(), asks(talk, mix)) for name, mix in mixes.items()}
    used = new()
    for name in ORDER:
        reply = generate(used, asks(talk, mixes[name]))
        assert reply.tokens == fresh[name].tokens, name
        assert relative(reply.logits, fresh[name].logits) < 1e-3, name
    for name, other in pairwise(ORDER):
        assert relative(fresh[name].logits, fresh[other].logits) > 1e-2, (name, other)


def test_a_planted_wrong_cache_hit_would_be_noticed(
    tiny: Model, tiny_talk: Prompt, new_tiny: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above, with one key for all steering, which is to compare tokens only: it fails."""
    mixes = the_mixes(tiny, "response")
    fresh = generate(new_tiny(), asks(tiny_talk, mixes["a"]))

    def lay_out_with_one_key(mix: Mix, position: int = 0) -> RowSteering | None:
        row_steering = lay_out(mix, position)
        return replace(row_steering, key="always the same") if row_steering else None

    monkeypatch.setattr(scope, "lay_out", lay_out_with_one_key)
    used = new_tiny()
    generate(used, asks(tiny_talk, mixes["b"]))
    reply = generate(used, asks(tiny_talk, mixes["a"]))
    assert reply.progress.n_cached == len(tiny_talk.tokens) - 1
    same_tokens = reply.tokens == fresh.tokens
    assert not same_tokens or relative(reply.logits, fresh.logits) > 1e-2


def n_cached(engine: Engine, request: Request) -> int:
    return generate(engine, request).progress.n_cached


def test_presets_share_the_unsteered_prompt_and_nothing_else(
    tiny: Model, tiny_sea: Prompt, tiny_talk: Prompt, new_tiny: Callable[..., Engine]
) -> None:
    engine, n = new_tiny(512), len(tiny_sea.tokens)
    a, b = steering(tiny, 1), steering(tiny, 2)
    assert n_cached(engine, asks(tiny_sea, a)) == 0
    assert n_cached(engine, asks(tiny_sea, a)) == n - 1  # the last token is always decoded anew
    assert n_cached(engine, asks(tiny_sea, b)) == n - 1  # the boundary alone is steered
    assert n_cached(engine, asks(tiny_sea)) == n - 1
    (earlier,) = tiny_talk.responses
    shared = next(
        i for i, (x, y) in enumerate(zip(tiny_sea.tokens, tiny_talk.tokens, strict=False)) if x != y
    )
    assert n_cached(engine, asks(tiny_talk, a)) == shared
    assert n_cached(engine, asks(tiny_talk, a)) == len(tiny_talk.tokens) - 1
    for mix in (b, NOTHING, 0.5 * a):
        assert n_cached(engine, asks(tiny_talk, mix)) == earlier[0]


def test_scope_all_shares_bos_alone(
    tiny: Model, tiny_sea: Prompt, new_tiny: Callable[..., Engine]
) -> None:
    engine = new_tiny()
    mix = steering(tiny, 1, "all")
    assert tiny_sea.has_bos
    generate(engine, asks(tiny_sea))
    assert n_cached(engine, asks(tiny_sea, mix)) == 1
    assert n_cached(engine, asks(tiny_sea, 2 * mix)) == 1
    for again in (2 * mix, mix, NOTHING):  # each is still held by a sequence of its own
        assert n_cached(engine, asks(tiny_sea, again)) == len(tiny_sea.tokens) - 1


def test_a_conversation_that_goes_on_decodes_only_what_is_new(
    tiny: Model, tiny_sea: Prompt, new_tiny: Callable[..., Engine]
) -> None:
    engine, mix, n = new_tiny(), steering(tiny), len(tiny_sea.tokens)
    first = generate(engine, asks(tiny_sea, mix, max_tokens=10))
    end = tiny.vocab.tokenize("<|im_end|>\n<|im_start|>user\nMore.<|im_end|>\n", special=True)
    again = tiny.vocab.tokenize("<|im_start|>assistant\n", special=True)
    tokens = (*tiny_sea.tokens, *first.tokens, *end, *again)
    goes_on = Prompt(tokens, ((n - 1, n + 11),), tiny_sea.has_bos)
    fresh = generate(new_tiny(), asks(goes_on, mix))
    reply = generate(engine, asks(goes_on, mix))
    assert reply.progress.n_cached == n + 10 - 1  # the tenth token was drawn, never decoded
    assert reply.tokens == fresh.tokens
    assert relative(reply.logits, fresh.logits) < 1e-3
    assert reply.progress.n_steered == fresh.progress.n_steered


@pytest.mark.parametrize("scope", ["response", "all", "front"])
def test_a_prompt_of_several_batches_is_steered_like_one_of_one_batch(
    tiny: Model, tiny_talk: Prompt, new_tiny: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch, scope: Scope,
) -> None:  # fmt: skip
    if scope == "front":
        rng = np.random.default_rng(5)
        z = (8 * rng.standard_normal((9, tiny.n_embd))).astype(np.float32)
        front = Steering("front", tiny.n_embd, tiny.n_layer, {1: Delta.constant(z)}, "front")
        mix = Mix.of(front)
    else:
        mix = steering(tiny, 1, scope)
    whole, pieces = new_tiny(), new_tiny()
    monkeypatch.setattr(pieces.context, "n_batch", 7)
    expected, reply = (generate(engine, asks(tiny_talk, mix)) for engine in (whole, pieces))
    bare = generate(whole, asks(tiny_talk))
    assert reply.tokens == expected.tokens
    assert relative(reply.logits, expected.logits) < 1e-3
    assert relative(expected.logits, bare.logits) > 1e-2
    assert reply.progress.n_steered == expected.progress.n_steered
    # In the last block only rows with logits are computed; it is not steered here.
    assert reply.progress.n_moved == expected.progress.n_moved
    assert reply.progress.moved == pytest.approx(expected.progress.moved, rel=1e-3)


# Several replies at once


def test_two_open_replies_read_in_turns_are_what_they_are_alone(
    model: Model, sea: Prompt, talk: Prompt, engine: Engine
) -> None:
    requests = [asks(sea, steering(model, 1)), asks(talk, steering(model, 2, "all")), asks(sea)]
    alone = [generate(engine, request) for request in requests]
    progresses = [Progress() for _ in requests]
    replies = [
        engine.generate(request, p) for request, p in zip(requests, progresses, strict=True)
    ]
    texts, open_ones = ["", "", ""], {0, 1, 2}
    while open_ones:
        for i in sorted(open_ones):
            piece = next(replies[i], None)
            if piece is None:
                open_ones.remove(i)
            else:
                texts[i] += piece.text
    assert texts == [reply.text for reply in alone]
    for progress, reply in zip(progresses, alone, strict=True):
        assert progress.n_generated == reply.progress.n_generated
        assert progress.n_steered == reply.progress.n_steered


def test_threads_share_an_engine(model: Model, sea: Prompt, engine: Engine) -> None:
    requests = [asks(sea, mix, 8) for mix in the_mixes(model, "response").values()]
    expected = [generate(engine, request).text for request in requests]
    found: list[str] = ["" for _ in requests]

    def work(i: int) -> None:
        found[i] = "".join(piece.text for piece in engine.generate(requests[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == expected


def tokens_of(engine: Engine, request: Request) -> list[int | None]:
    """The tokens alone: the logits of a batch that others take part in are not this reply's."""
    return [piece.token for piece in engine.generate(request)]


def test_a_reply_that_is_never_read_to_the_end_blocks_nobody(
    model: Model, sea: Prompt, talk: Prompt, engine: Engine
) -> None:
    expected = tokens_of(engine, asks(talk))
    abandoned = engine.generate(asks(sea, steering(model)))
    next(abandoned)
    assert tokens_of(engine, asks(talk)) == expected
    next(abandoned)
    del abandoned
    gc.collect()
    assert tokens_of(engine, asks(talk)) == expected
    unread = engine.generate(asks(sea))
    assert tokens_of(engine, asks(talk)) == expected
    del unread


# How a reply ends


@pytest.fixture(scope="module")
def long_reply(engine: Engine, sea: Prompt) -> Reply:
    return generate(engine, asks(sea, max_tokens=30))


def across_tokens(model: Model, reply: Reply, at: int) -> str:
    """The end of one token and the start of the next, as a stop string."""
    before, after = (model.vocab.text([token]) for token in reply.tokens[at : at + 2])
    return before[-2:] + after[:2]


@pytest.mark.parametrize("at", [4, 9, 15])
def test_a_stop_string_across_tokens_ends_the_reply_before_it(
    engine: Engine, model: Model, sea: Prompt, long_reply: Reply, at: int
) -> None:
    stop = across_tokens(model, long_reply, at)
    reply = generate(engine, asks(sea, max_tokens=30, stop=["never said", stop]))
    assert reply.text == long_reply.text[: long_reply.text.index(stop)]
    assert reply.progress.finish_reason == "stop"
    assert reply.progress.n_generated < 30
    shown = ""
    for piece in reply.pieces:
        shown += piece.text
        assert long_reply.text.startswith(shown)


def test_text_held_back_for_a_stop_string_is_shown_when_the_reply_ends(
    engine: Engine, sea: Prompt, long_reply: Reply
) -> None:
    stop = long_reply.text[-3:] + "never"
    reply = generate(engine, asks(sea, max_tokens=30, stop=[stop]))
    assert reply.text == long_reply.text
    assert reply.progress.finish_reason == "length"
    assert reply.pieces[-1].token is None
    assert reply.tokens == long_reply.tokens


@pytest.mark.parametrize("n", [1, 2, 7])
def test_max_tokens_is_how_many_tokens_come(
    engine: Engine, sea: Prompt, long_reply: Reply, n: int
) -> None:
    reply = generate(engine, asks(sea, max_tokens=n))
    assert reply.tokens == long_reply.tokens[:n]
    assert reply.progress.n_generated == n
    assert reply.progress.n_prompt == len(sea.tokens)
    assert reply.progress.finish_reason == "length"


def test_without_a_limit_a_reply_ends_where_the_context_does(
    tiny: Model, new_tiny: Callable[..., Engine]
) -> None:
    engine = new_tiny(256)
    filler = tiny.vocab.tokenize(" once upon a time there was a king" * 40)
    for room in (1, 5):
        prompt = Prompt(tuple(filler[: 256 - room]))
        reply = generate(engine, asks(prompt, max_tokens=None))
        assert reply.progress.n_generated == room
        assert reply.progress.finish_reason == "length"


def test_an_end_of_turn_token_ends_the_reply_and_is_not_part_of_it(
    engine: Engine, model: Model
) -> None:
    reply = generate(engine, asks(chat(model, "Name three colours."), max_tokens=100))
    assert reply.progress.finish_reason == "stop"
    assert 3 < reply.progress.n_generated < 100
    assert not any(model.vocab.ends_generation(token) for token in reply.tokens)
    assert "<|im_end|>" not in reply.text


# Sampling


def test_a_seed_says_the_same_again_and_another_seed_something_else(
    new_engine: Callable[..., Engine], model: Model, sea: Prompt
) -> None:
    mix, engine = steering(model), new_engine()
    warm = [
        generate(engine, asks(sea, mix, sampling=Sampling(temperature=1.2, seed=seed)))
        for seed in (1, 1, 2)
    ]
    assert warm[0].tokens == warm[1].tokens != warm[2].tokens
    assert [reply.progress.seed for reply in warm] == [1, 1, 2]


def test_a_reply_without_a_seed_tells_the_one_that_says_it_again(
    new_engine: Callable[..., Engine], sea: Prompt
) -> None:
    engine = new_engine()
    first = generate(engine, asks(sea, sampling=Sampling(temperature=1.5)))
    seed = first.progress.seed
    again = generate(engine, asks(sea, sampling=Sampling(temperature=1.5, seed=seed)))
    other = generate(engine, asks(sea, sampling=Sampling(temperature=1.5)))
    assert again.tokens == first.tokens
    assert other.progress.seed != seed


def test_a_repeat_penalty_is_heeded(engine: Engine, sea: Prompt, long_reply: Reply) -> None:
    penalised = asks(sea, max_tokens=30, sampling=Sampling(temperature=0, repeat_penalty=3.0))
    reply = generate(engine, penalised)
    assert len(set(reply.tokens)) > len(set(long_reply.tokens))


# The receipt


def test_progress_counts_what_was_steered_and_how_far(
    model: Model, talk: Prompt, new_engine: Callable[..., Engine]
) -> None:
    engine, mix = new_engine(), steering(model)
    cold = generate(engine, asks(talk, mix, max_tokens=6)).progress
    (earlier,) = talk.responses
    # the earlier reply, the boundary token, and the five reply tokens that were decoded
    assert cold.n_steered == (earlier[1] - earlier[0]) + 1 + 5
    assert cold.n_moved == cold.n_steered * len(LAYERS)
    assert cold.moved > 0
    warm = generate(engine, asks(talk, mix, max_tokens=6))
    assert warm.progress.n_steered == cold.n_steered
    assert warm.progress.n_moved == 6 * len(LAYERS)
    assert all(piece.moved > 0 for piece in warm.pieces)
    mean = warm.progress.moved / warm.progress.n_moved
    assert mean == pytest.approx(np.mean([piece.moved for piece in warm.pieces]), rel=1e-4)
    bare = generate(engine, asks(talk, max_tokens=6))
    assert (bare.progress.n_steered, bare.progress.moved, bare.progress.n_moved) == (0, 0, 0)
    assert all(piece.moved == 0 for piece in bare.pieces)


def test_more_strength_moves_activations_further(
    engine: Engine, model: Model, sea: Prompt
) -> None:
    moved = [
        generate(engine, asks(sea, strength * steering(model), max_tokens=1)).progress.moved
        for strength in (0.25, 0.5, 1.0)
    ]
    assert moved[1] > 1.5 * moved[0]
    assert moved[2] > 1.5 * moved[1]


# Refusals and errors


def test_a_prompt_that_fills_the_context_is_refused(new_tiny: Callable[..., Engine]) -> None:
    engine = new_tiny(256)
    for n in (256, 257, 5000):
        with pytest.raises(ContextOverflow, match=rf"^the prompt has {n} tokens .* holds 256.*\.$"):
            generate(engine, asks(Prompt((5,) * n)))
    assert len(generate(engine, asks(Prompt((5,) * 255))).tokens) == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (asks(Prompt(())), "the prompt is empty; send at least one message or word."),
        (asks(Prompt((5,)), max_tokens=-3), "max_tokens is -3; give at least 1."),
    ],
)
def test_a_bad_request_is_refused_in_one_sentence(
    engine: Engine, request_: Request, message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        generate(engine, request_)
    assert str(caught.value) == message


def test_minus_1_is_as_many_tokens_as_fit_and_an_empty_stop_is_none(
    engine: Engine, sea: Prompt
) -> None:
    asked = asks(sea, max_tokens=-1, stop=["", ""])
    assert (asked.max_tokens, asked.stop) == (None, ())
    bare = generate(engine, asks(sea, max_tokens=8))
    assert generate(engine, asks(sea, max_tokens=8, stop=[""])).tokens == bare.tokens


def test_a_single_text_as_stop_is_not_taken_for_its_letters(engine: Engine, sea: Prompt) -> None:
    bare = generate(engine, asks(sea, max_tokens=12)).text
    word = bare.split()[4]
    stopped = generate(engine, Request(sea, sampling=GREEDY, stop=word, max_tokens=12))
    assert stopped.text == bare.partition(word)[0]


def test_an_engine_error_leaves_the_engine_usable(
    model: Model, sea: Prompt, talk: Prompt, engine: Engine
) -> None:
    mix = steering(model)
    expected = generate(engine, asks(talk, mix))
    still_open = engine.generate(asks(talk, mix))
    text = next(still_open).text
    with pytest.raises(EngineError, match=r"block 8 infinite; choose a smaller strength\.$"):
        generate(engine, asks(sea, 1e30 * mix))
    with pytest.raises(RequestError, match="the prompt names token 1000000"):
        generate(engine, asks(Prompt((1, 10**6))))
    narrow = Steering("narrow", 64, 5, {0: Delta.constant(np.ones(64, np.float32))})
    with pytest.raises(SteeringError, match="build it for this model"):
        generate(engine, asks(sea, Mix.of(narrow)))
    assert text + "".join(piece.text for piece in still_open) == expected.text
    assert generate(engine, asks(talk, mix)).tokens == expected.tokens


def test_a_closed_engine_says_so_to_new_and_to_open_replies(
    model: Model, sea: Prompt, talk: Prompt
) -> None:
    engine = Engine(model, n_ctx=1024, n_threads=1)
    bias = Sampling(temperature=0, logit_bias={model.vocab.eos: -100})
    endless = [asks(prompt, max_tokens=None, sampling=bias) for prompt in (sea, talk)]
    first, second = (engine.generate(request) for request in endless)
    next(first)
    next(second)
    engine.close()
    engine.close()
    for reply in (first, second, engine.generate(asks(sea))):
        with pytest.raises(EngineError, match="this context is closed; open the model again"):
            list(reply)
