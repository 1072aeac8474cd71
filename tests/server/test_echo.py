"""`/v1/completions` with `echo`, token ids and `max_tokens: 0`, as clients of OpenAI send them."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from steerplug.engine.sampler import Sampling
from steerplug.errors import RequestError
from steerplug.server.echo import echo
from steerplug.session import Settings
from steerplug.session.receipt import Scored
from tests.helpers.serving import NAME, PIRATE, Client, events, served, session

TEXT = "The sea is deep \N{PARTY POPPER} and the sky is blue"
HALF = "\N{REPLACEMENT CHARACTER}"
GREEDY = Settings(Sampling(0), logprobs=2)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


@pytest.fixture
def ai(client: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{client.root}/v1", api_key="none", max_retries=0) as ai:
        yield ai


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    tokens: list[int] = session().model.vocab.tokenize(TEXT)
    return tokens


def scored(client: Client, **body: Any) -> dict[str, Any]:
    """The first choice of a text that is scored."""
    said = {"prompt": TEXT, "echo": True, "logprobs": 2, "max_tokens": 0, **body}
    (choice, *_) = client.complete(**said).json()["choices"]
    assert isinstance(choice, dict)
    return choice


# OpenAI's form


def test_a_text_is_scored_token_by_token(ai: openai.OpenAI, tokens: list[int]) -> None:
    answer = ai.completions.create(model=NAME, prompt=TEXT, echo=True, logprobs=2, max_tokens=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (TEXT, "length")
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.token_logprobs is not None
    assert told.top_logprobs is not None
    assert told.text_offset is not None
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(tokens)
    assert len(told.text_offset) == len(tokens)
    first: Any = told.token_logprobs[0], told.top_logprobs[0]
    assert first == (None, None)
    own = session().score(TEXT, None, GREEDY)
    assert own.tokens == tuple(tokens)
    for word, x, top, score in zip(
        told.tokens[1:], told.token_logprobs[1:], told.top_logprobs[1:], own.logprobs[1:],
        strict=True,
    ):  # fmt: skip
        assert score is not None
        assert x == pytest.approx(score.logprob, abs=0.1)
        assert top[word] >= x
        assert len(top) in ((1, 2, 3) if HALF in word else (2, 3))  # halves look alike
    assert answer.usage is not None
    details = {"prompt_tokens_details", "completion_tokens_details"}
    assert answer.usage.model_dump(exclude=details, exclude_none=True) == {
        "prompt_tokens": len(tokens), "completion_tokens": 0, "total_tokens": len(tokens)
    }  # fmt: skip


def test_offsets_count_characters(client: Client, tokens: list[int]) -> None:
    choice = scored(client, max_tokens=4, temperature=0)
    told = choice["logprobs"]
    for begin, word in zip(told["text_offset"], told["tokens"], strict=True):
        if HALF not in word:
            assert choice["text"][begin:].startswith(word)
    assert len(told["tokens"]) == len(tokens) + 4
    assert told["text_offset"][len(tokens)] == len(TEXT)


def test_tokens_score_as_their_text_does(client: Client, tokens: list[int]) -> None:
    by_text, by_tokens = scored(client), scored(client, prompt=tokens)
    assert by_tokens["text"] == by_text["text"] == TEXT
    for key in ("tokens", "text_offset"):
        assert by_tokens["logprobs"][key] == by_text["logprobs"][key]
    assert by_tokens["logprobs"]["token_logprobs"][1:] == pytest.approx(
        by_text["logprobs"]["token_logprobs"][1:], abs=0.1
    )


def test_a_bos_that_is_put_before_a_text_is_none_of_its_tokens(
    client: Client, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session().model.vocab, "adds_bos", True)
    told = scored(client, max_tokens=1)["logprobs"]
    assert len(told["tokens"]) == len(tokens) + 1
    assert (told["token_logprobs"][0], told["text_offset"][0]) == (None, 0)
    as_sent = scored(client, prompt=[session().model.vocab.bos, *tokens])["logprobs"]
    assert len(as_sent["tokens"]) == len(tokens) + 1
    assert as_sent["token_logprobs"][2:] == pytest.approx(told["token_logprobs"][1:-1], abs=0.1)


def test_a_session_goes_on_with_tokens_as_with_their_text(tokens: list[int]) -> None:
    settings = Settings(Sampling(0), max_tokens=8)
    by_text, by_tokens = (session().complete(text, None, settings) for text in (TEXT, tokens))
    assert by_tokens.text == by_text.text
    with pytest.raises(RequestError, match=r"the prompt holds 1\.5, which is no token; send a te"):
        session().complete([1, 1.5], None, settings)  # type: ignore[list-item]
    with pytest.raises(RequestError, match="the prompt is empty"):
        session().score([], None, settings)


def test_lists_are_answered_in_their_order(client: Client) -> None:
    vocab = session().model.vocab
    texts = ["The sea", "Rain is wet and", "One two three"]
    said: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 1}
    for prompt in (texts, [vocab.tokenize(text) for text in texts],
                   [texts[0], *(vocab.tokenize(text) for text in texts[1:])]):  # fmt: skip
        answer = client.complete(prompt=prompt, **said).json()
        for text, choice in zip(texts, answer["choices"], strict=True):
            assert choice["text"].startswith(text)
            assert len(choice["logprobs"]["tokens"]) == len(vocab.tokenize(text)) + 1
        assert answer["usage"]["completion_tokens"] == 3
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_many_prompts_are_one_request(client: Client) -> None:
    answer = client.complete(prompt=[f"{i} and" for i in range(20)], max_tokens=1).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(20))


def test_special_tokens_that_came_as_numbers_are_spelt_out(client: Client) -> None:
    tokens = session().model.vocab.tokenize("<|im_start|>user\nHi<|im_end|>", special=True)
    told = scored(client, prompt=tokens)
    assert told["text"] == "".join(told["logprobs"]["tokens"]) == "<|im_start|>user\nHi<|im_end|>"


@pytest.mark.parametrize("model", [NAME, PIRATE])
def test_a_stream_says_what_comes_in_one(client: Client, model: str) -> None:
    body = {"model": model, "prompt": TEXT, "echo": True, "logprobs": 2, "max_tokens": 5}
    (whole,) = client.complete(**body).json()["choices"]
    parts = [one["choices"][0] for one in events(client.complete(**body, stream=True))]
    assert "".join(part["text"] for part in parts) == whole["text"]
    told = [part["logprobs"] for part in parts if part["logprobs"]]
    for key in ("tokens", "text_offset"):
        assert [one for each in told for one in each[key]] == whole["logprobs"][key]
    assert parts[-1]["finish_reason"] == "length"


# What is scored, and what it leaves alone


def test_steered_the_text_is_scored_as_the_steered_model_would_write_it(client: Client) -> None:
    bare, steered = (scored(client, model=model)["logprobs"] for model in (NAME, PIRATE))
    moved = [abs(a - b) for a, b in zip(bare["token_logprobs"][1:], steered["token_logprobs"][1:],
                                        strict=True)]  # fmt: skip
    assert max(moved) > 0.3
    answer = client.complete(model=PIRATE, prompt=TEXT, echo=True, logprobs=0, max_tokens=0).json()
    assert answer["steering"]["tokens_steered"] == answer["usage"]["prompt_tokens"]


@pytest.mark.parametrize("model", [NAME, PIRATE])
def test_to_ask_how_likely_a_text_is_changes_no_reply(client: Client, model: str) -> None:
    body: dict[str, Any] = {"model": model, "prompt": TEXT, "max_tokens": 12}
    plain = client.complete(**body, logprobs=2).json()["choices"][0]
    told = scored(client, **body, temperature=0)
    assert told["text"] == TEXT + plain["text"]
    assert told["logprobs"]["tokens"][-12:] == plain["logprobs"]["tokens"]


def test_the_token_that_ends_a_reply_is_told(client: Client) -> None:
    chat = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\nYes."
    tokens = session().model.vocab.tokenize(chat, special=True)
    answer = client.complete(prompt=tokens, echo=True, logprobs=1, max_tokens=1).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (chat, "stop")
    assert len(choice["logprobs"]["token_logprobs"]) == len(tokens) + 1
    assert choice["logprobs"]["tokens"][-1] == "<|im_end|>"
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("echoes", [False, True])
def test_without_logprobs_no_token_may_be_asked_for_either(client: Client, echoes: bool) -> None:
    for prompt in (TEXT, session().model.vocab.tokenize(TEXT)):
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": 0, "echo": echoes}
        answer = client.complete(**body).json()
        assert answer["choices"][0] == {
            "index": 0, "text": TEXT if echoes else "", "logprobs": None, "finish_reason": "length"
        }  # fmt: skip
        assert answer["usage"]["completion_tokens"] == 0
        texts = [one["choices"][0]["text"] for one in events(client.complete(**body, stream=True))]
        assert "".join(texts) == (TEXT if echoes else "")


def test_a_preset_of_json_scores_texts_as_any_other(client: Client) -> None:
    told = scored(client, steering="json-output", max_tokens=1)
    assert len(told["logprobs"]["tokens"]) == len(session().model.vocab.tokenize(TEXT)) + 1


def test_a_space_that_the_vocabulary_puts_before_a_text_is_none_of_it() -> None:
    class Words:
        def piece(self, token: int, _special: bool) -> bytes:
            return (b" Hello", b" w", "ö".encode()[:1], "ö".encode()[1:])[token]

    reply = session().complete("x", None, Settings(max_tokens=0))
    text = Scored((0, 1, 2, 3), (None, None, None, None), reply)
    pieces = echo("Hello wö", text, Words())  # type: ignore[arg-type]
    assert [piece.text for piece in pieces] == ["Hello", " w", "", "ö"]
