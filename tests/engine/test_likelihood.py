"""How likely the tokens of a prompt are: as transformers finds it, whatever runs or is cached."""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from steerplug.engine import likelihood
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Logprobs, Progress, Request
from steerplug.engine.generation import Generation
from steerplug.engine.model import Model
from steerplug.engine.prefix_cache import PrefixCache
from steerplug.engine.rows import Row
from steerplug.engine.sampler import Sampling
from steerplug.engine.scheduler import Scheduler
from steerplug.engine.scope import Prompt, plan
from steerplug.errors import ContextOverflow, RequestError
from steerplug.fit.measure import log_softmax
from steerplug.steering.value import NOTHING, Array, Mix
from tests.helpers.alone import chat, steering
from tests.helpers.tiny_models import tiny_model

GREEDY = Sampling(temperature=0)
TEXT = "The capital of France is Paris, and the capital of Italy is Rome. " * 3


@pytest.fixture(scope="module")
def prompt(model: Model) -> Prompt:
    """A text that counts as the model's own."""
    tokens = tuple(model.vocab.tokenize(TEXT))
    return Prompt(tokens, ((0, len(tokens)),))


def scores(engine: Engine, prompt: Prompt, mix: Mix = NOTHING, **more: Any) -> list[Any]:
    progress = Progress()
    said = {"sampling": GREEDY, "logprobs": 2, "scored": True, "max_tokens": 0, **more}
    list(engine.generate(Request(prompt, mix, **said), progress))
    assert progress.finish_reason is not None
    return progress.scores


def figures(told: Sequence[Logprobs | None]) -> Array:
    return np.array([one.logprob for one in told if one is not None])


def decoded(model: Model, prompt: Prompt, mix: Mix) -> Array:
    """The log-probabilities after each token, by one context of its own, token by token."""
    context = Context(model, n_ctx=256, n_threads=1)
    rows = []
    for i, (token, row_steering) in enumerate(
        zip(prompt.tokens, plan(mix, prompt).prompt, strict=True)
    ):
        context.decode([Row(token, i, True, row_steering)])
        rows.append(context.logits(0))
    context.close()
    return log_softmax(np.stack(rows))


def test_a_text_is_as_likely_as_transformers_finds_it(
    engine: Engine, prompt: Prompt, smollm2_oracle: Any
) -> None:
    first, *told = scores(engine, prompt)
    rows = log_softmax(smollm2_oracle.logits(prompt.tokens, [[]] * len(prompt.tokens)))[:-1]
    assert first is None
    assert len(told) == len(prompt.tokens) - 1
    expected = rows[np.arange(len(told)), prompt.tokens[1:]]
    np.testing.assert_allclose(figures(told), expected, atol=0.5)
    assert float(np.abs(figures(told) - expected).mean()) < 0.08
    same = [one.top[0][0] == int(row.argmax()) for one, row in zip(told, rows, strict=True)]
    assert np.mean(same) > 0.9
    for one in told:
        assert len(one.top) == 2
        assert one.top[0][1] >= max(one.top[1][1], one.logprob)


@pytest.mark.parametrize("steered", [False, True])
def test_each_token_is_judged_by_the_row_before_it_as_steered(
    engine: Engine, model: Model, prompt: Prompt, steered: bool
) -> None:
    mix = steering(model, 3) if steered else NOTHING
    _, *told = scores(engine, prompt, mix)
    rows = decoded(model, prompt, mix)
    expected = rows[np.arange(len(told)), prompt.tokens[1:]]
    np.testing.assert_allclose(figures(told), expected, atol=0.15)
    for one, row in zip(told, rows, strict=False):
        np.testing.assert_allclose([x for _, x in one.top], np.sort(row)[-2:][::-1], atol=0.15)


def test_only_what_is_steered_is_scored_as_steered(
    engine: Engine, model: Model, prompt: Prompt
) -> None:
    half = len(prompt.tokens) // 2
    own = Prompt(prompt.tokens, ((half, len(prompt.tokens)),))
    bare, steered = (figures(scores(engine, own, mix)[1:]) for mix in (NOTHING, steering(model, 3)))
    np.testing.assert_allclose(bare[:half], steered[:half], atol=0.05)
    assert float(np.abs(bare[half:] - steered[half:]).max()) > 0.2


def test_what_is_cached_is_read_again_and_then_serves_the_reply(
    engine: Engine, prompt: Prompt
) -> None:
    engine.forget()
    once = figures(scores(engine, prompt))
    again = Progress()
    list(engine.generate(Request(prompt, sampling=GREEDY, max_tokens=1), again))
    assert again.n_cached == len(prompt.tokens) - 1
    np.testing.assert_allclose(figures(scores(engine, prompt)), once, atol=0.1)
    reread = Progress()
    list(engine.generate(Request(prompt, sampling=GREEDY, max_tokens=0, logprobs=0, scored=True),
                         reread))  # fmt: skip
    assert reread.n_cached == 0


def test_scores_are_the_same_beside_other_replies_and_in_small_pieces(
    engine: Engine, model: Model, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = figures(scores(engine, prompt))
    monkeypatch.setattr(likelihood, "_LOGITS", 7 * 4 * model.vocab.n_tokens)
    others = [
        threading.Thread(target=lambda i=i: list(engine.generate(
            Request(chat(model, f"Say {i}."), steering(model, i), GREEDY, max_tokens=20)
        )))
        for i in range(3)
    ]  # fmt: skip
    for other in others:
        other.start()
    beside = [figures(scores(engine, prompt)) for _ in range(3)]
    for other in others:
        other.join()
    for told in beside:
        np.testing.assert_allclose(told, alone, atol=0.15)


def test_the_rows_of_a_decode_that_ask_for_logits_are_bounded(
    engine: Engine, model: Model, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "_LOGITS", 7 * 4 * model.vocab.n_tokens)
    asked: list[int] = []
    decode: Callable[..., Any] = Context.decode

    def counted(self: Context, rows: Sequence[Row], *more: Any, **named: Any) -> Any:
        asked.append(sum(row.output for row in rows))
        return decode(self, rows, *more, **named)

    monkeypatch.setattr(Context, "decode", counted)
    assert len(scores(engine, prompt)) == len(prompt.tokens)
    assert max(asked) == 7
    assert sum(asked) == len(prompt.tokens)


def test_a_reply_that_gave_way_goes_on_with_the_first_score_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = Model(tiny_model("llama"))
    monkeypatch.setattr(likelihood, "_LOGITS", 2 * 4 * tiny.vocab.n_tokens)
    tokens = tuple(tiny.vocab.tokenize(TEXT * 3))[:180]
    prompt = Prompt(tokens, ((0, len(tokens)),))
    context = Context(tiny, n_ctx=256, n_seq=3, n_threads=1)
    endless = Sampling(temperature=0, logit_bias={tiny.vocab.eos: -100.0})
    batch, progress = Scheduler(PrefixCache(context)), Progress()
    for request, told in (
        (Request(Prompt((504, 357, 253)), sampling=endless, max_tokens=140), Progress()),
        (Request(prompt, max_tokens=0, logprobs=0, scored=True), progress),
    ):
        batch.waiting.append(
            Generation(request, told, lambda _: None, batch.cache, tiny.vocab, context.n_ctx)
        )
    scored, back = batch.waiting[-1], set[int]()
    while batch:
        batch.step()
        if scored in batch.waiting and (n := len(progress.scores)) > 1:
            back.add(n)
    context.close()
    (n_scored,) = back
    assert n_scored < len(prompt.tokens)
    with closing(Engine(tiny, n_ctx=256, n_threads=1)) as engine:
        expected = figures(scores(engine, prompt))
    np.testing.assert_allclose(figures(progress.scores), expected, atol=0.15)
    tiny.close()


def test_no_token_at_all_may_be_asked_for_and_the_prompt_is_then_in_the_cache(
    engine: Engine, prompt: Prompt
) -> None:
    engine.forget()
    read, then = Progress(), Progress()
    assert list(engine.generate(Request(prompt, max_tokens=0), read)) == []
    assert (read.finish_reason, read.n_generated, read.scores) == ("length", 0, [])
    list(engine.generate(Request(prompt, sampling=GREEDY, max_tokens=1), then))
    assert then.n_cached == len(prompt.tokens) - 1


def test_a_prompt_alone_may_fill_the_context(engine: Engine) -> None:
    full = Prompt((5,) * engine.n_ctx)
    engine.check(Request(full, max_tokens=0))
    with pytest.raises(ContextOverflow):
        engine.check(Request(full, max_tokens=1))
    with pytest.raises(RequestError, match="scored with no logprobs; give their number, or 0"):
        engine.check(Request(full, max_tokens=0, scored=True))


def test_the_token_that_ends_a_reply_is_told_where_that_is_asked_for(
    engine: Engine, model: Model
) -> None:
    ended = Prompt((*chat(model, "Say yes.").tokens, *model.vocab.tokenize("Yes.")))
    said: dict[str, Any] = {"sampling": GREEDY, "max_tokens": 1, "logprobs": 1}
    assert list(engine.generate(Request(ended, **said))) == []
    (end,) = engine.generate(Request(ended, **said, tells_end=True))
    assert end.token is not None
    assert end.logprobs is not None
    assert model.vocab.ends_generation(end.token)
    assert (end.text, end.logprobs.top[0]) == ("", (end.token, end.logprobs.logprob))
