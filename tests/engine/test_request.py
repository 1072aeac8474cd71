"""What a request may ask for besides its prompt: log-probabilities, biases, phases left alone."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest
from llama_cpp import llama_cpp as llama

from steerplug.engine.constraint import Choice
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Progress, Request
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.engine.sampler import Sampler, Sampling
from steerplug.engine.scope import Prompt, plan
from steerplug.engine.thought_marks import ThoughtMarks
from steerplug.engine.thoughts import Thinking
from steerplug.errors import RequestError
from steerplug.fit.measure import log_softmax
from steerplug.steering.value import Array
from tests.helpers.alone import chat, steering

GREEDY = Sampling(temperature=0)


# Log-probabilities


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.5, top_k=3, seed=4)])
def test_logprobs_are_the_model_s_own_whatever_the_sampling(
    engine: Engine, model: Model, plain_logits: Callable[..., Array], sampling: Sampling
) -> None:
    prompt = chat(model, "Name a colour.")
    request = Request(prompt, sampling=sampling, max_tokens=6, logprobs=5)
    pieces = list(engine.generate(request))
    tokens = [piece.token for piece in pieces if piece.token is not None]
    rows = log_softmax(plain_logits([*prompt.tokens, *tokens[:-1]]))[-len(tokens) :]
    for piece, row in zip(pieces, rows, strict=False):
        assert piece.logprobs is not None
        likeliest = np.argsort(-row)[:5]
        assert [token for token, _ in piece.logprobs.top] == likeliest.tolist()
        told = [logprob for _, logprob in piece.logprobs.top]
        np.testing.assert_allclose(told, row[likeliest], atol=0.1)
        assert piece.logprobs.logprob == pytest.approx(float(row[piece.token]), abs=0.1)


def test_logprobs_look_past_a_grammar(engine: Engine, model: Model) -> None:
    prompt = chat(model, "Name a colour.")
    (free,) = engine.generate(Request(prompt, sampling=GREEDY, max_tokens=1, logprobs=3))
    held = next(engine.generate(
        Request(prompt, sampling=GREEDY, grammar=Choice(("qqq",)), logprobs=3)
    ))  # fmt: skip
    assert free.logprobs is not None
    assert held.logprobs is not None
    assert [token for token, _ in held.logprobs.top] == [token for token, _ in free.logprobs.top]
    assert held.logprobs.logprob < free.logprobs.top[-1][1]


def test_without_logprobs_none_are_told_and_0_tells_the_drawn_token_s_alone(
    engine: Engine, model: Model
) -> None:
    prompt = chat(model, "Hi.")
    (none,) = engine.generate(Request(prompt, sampling=GREEDY, max_tokens=1))
    (own,) = engine.generate(Request(prompt, sampling=GREEDY, max_tokens=1, logprobs=0))
    assert none.logprobs is None
    assert own.logprobs is not None
    assert own.logprobs.top == ()
    assert own.logprobs.logprob < 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"logprobs": -1}, "logprobs is -1; choose 0 to 100."),
        ({"logprobs": 101}, "logprobs is 101; choose 0 to 100."),
        ({"timeout": 0}, "timeout is 0; give a number of seconds above 0."),
        ({"timeout": float("nan")}, "timeout is nan; give a number of seconds above 0."),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(
    engine: Engine, settings: dict[str, float], sentence: str
) -> None:
    with pytest.raises(RequestError) as refusal:
        engine.check(Request(Prompt((5,)), **settings))  # type: ignore[arg-type]
    assert str(refusal.value) == sentence


# Biases


def test_a_bias_is_llama_cpp_s_own(context: Context) -> None:
    context.decode([Row(token, i, i == 3) for i, token in enumerate((1, 504, 314, 253))])
    bias = {int(context.logits(3).argmax()): -3.5, 300: 8.25}
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    biases = (llama.llama_logit_bias * 2)(*bias.items())
    for stage in (
        llama.llama_sampler_init_logit_bias(context.model.vocab.n_tokens, 2, biases),
        llama.llama_sampler_init_top_k(40), llama.llama_sampler_init_top_p(0.95, 1),
        llama.llama_sampler_init_min_p(0.05, 1), llama.llama_sampler_init_temp(0.8),
        llama.llama_sampler_init_dist(5),
    ):  # fmt: skip
        llama.llama_sampler_chain_add(chain, stage)
    expected = [int(llama.llama_sampler_sample(chain, context.handle, 3)) for _ in range(30)]
    llama.llama_sampler_free(chain)
    sampler = Sampler(Sampling(seed=5, logit_bias=bias), context.model.vocab.n_tokens)
    assert [sampler.draw(context, 3) for _ in range(30)] == expected
    plain = Sampler(Sampling(seed=5), context.model.vocab.n_tokens)
    assert [plain.draw(context, 3) for _ in range(30)] != expected


def test_a_bias_bans_and_forces_tokens(engine: Engine, model: Model) -> None:
    prompt = chat(model, "Name a colour.")

    def tokens(bias: Mapping[int, float]) -> list[int | None]:
        request = Request(prompt, sampling=Sampling(0, logit_bias=bias), max_tokens=5)
        return [piece.token for piece in engine.generate(request)]

    free = tokens({})
    assert free[0] is not None
    assert free[0] not in tokens({free[0]: -100.0})
    assert tokens({300: 100.0}) == [300] * 5


@pytest.mark.parametrize(
    ("bias", "sentence"),
    [
        ({5: 101.0}, "logit_bias is 101.0; choose -100.0 to 100.0."),
        ({5: float("nan")}, "logit_bias is nan; choose -100.0 to 100.0."),
        ({"5": 1.0}, "logit_bias names token '5'; give its number."),
        ({5: "much"}, "logit_bias is 'much'; give a number such as -100.0."),
    ],
)
def test_a_bias_that_makes_no_sense_is_refused(bias: dict[int, float], sentence: str) -> None:
    with pytest.raises(RequestError) as refusal:
        Sampling(logit_bias=bias)
    assert str(refusal.value) == sentence


# Phases


OPEN, CLOSE = "<gh_stars>", "<file_sep>"
THOUGHTS = ThoughtMarks(OPEN, CLOSE)


def steered(model: Model, prompt: Prompt, thoughts: ThoughtMarks | None) -> list[bool]:
    begin = partial(Thinking, thoughts, model.vocab) if thoughts else None
    return [each is not None for each in plan(steering(model), prompt, begin).prompt]


def test_thinking_is_left_out_of_earlier_turns_and_of_the_prompt_s_end(model: Model) -> None:
    open_, close = (model.vocab.tokenize(mark, special=True)[0] for mark in (OPEN, CLOSE))
    turns = (1, 2, 55, open_, 66, 66, close, 77, 77, 3, 1, 55)
    prompt = Prompt(turns, responses=((2, 10),))
    response = [False, False, *[True] * 8, False, True]
    assert steered(model, prompt, None) == response
    assert steered(model, prompt, THOUGHTS) == [
        on and i not in (3, 4, 5) for i, on in enumerate(response)
    ]
    begun = Prompt((*turns, open_), responses=((2, 10),))
    assert steered(model, begun, THOUGHTS)[-2:] == [False, False]
    gone_on_with = Prompt((*turns, open_, 88), responses=((2, 10),), begun=2)
    assert steered(model, gone_on_with, THOUGHTS)[-3:] == [True, False, False]


def test_a_thought_that_was_cut_off_ends_with_its_turn(model: Model) -> None:
    (open_,) = model.vocab.tokenize(OPEN, special=True)
    prompt = Prompt((1, 55, open_, 66, 2, 55, 77, 77, 1, 55), responses=((1, 4), (5, 8)))
    assert steered(model, prompt, THOUGHTS) == [
        False, True, False, False, False, True, True, True, False, True
    ]  # fmt: skip


@pytest.mark.parametrize("grammar", [None, Choice(("blue as the sea",))])
def test_a_constrained_reply_can_be_left_alone_and_its_earlier_turns_not(
    engine: Engine, model: Model, grammar: Choice | None
) -> None:
    talk = chat(model, "Name a colour.", "Blue.", "Why?")
    ((begin, end),) = talk.responses
    progress = Progress()
    request = Request(
        talk, steering(model), GREEDY, max_tokens=3, grammar=grammar,
        unsteered=frozenset({"constrained"}),
    )  # fmt: skip
    list(engine.generate(request, progress))
    assert progress.n_steered == end - begin + (3 if grammar is None else 0)
