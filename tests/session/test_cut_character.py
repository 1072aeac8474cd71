"""A reply whose room ends inside a character ends before it, at every door, streamed or not."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from steerplug.engine.engine import Piece
from steerplug.engine.sampler import Sampling
from steerplug.langchain import ChatSteerplug, SteerplugLLM
from steerplug.session import Settings
from steerplug.session.receipt import Reply
from tests.helpers.serving import Client, events, served, session

PARTY = "\N{PARTY POPPER}"
CHAT = [{"role": "user", "content": "Hello."}]
FALSE = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def half() -> int:
    """The token of the first half of a character."""
    vocab = session().model.vocab
    token: int = next(t for t in vocab.tokenize(PARTY) if vocab.piece(t) == PARTY.encode()[:2])
    return token


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


def halves(half: int, n: int) -> Settings:
    """Settings that draw the first half of a character n times."""
    return Settings(Sampling(temperature=0, logit_bias={half: 100.0}), max_tokens=n)


def test_a_session_s_reply_ends_before_it_and_counts_its_tokens(half: int) -> None:
    for reply in (session().chat(CHAT, settings=halves(half, 1)),
                  session().complete("Hello", settings=halves(half, 1))):  # fmt: skip
        assert (reply.text, reply.finish_reason, reply.usage.completion_tokens) == ("", "length", 1)


def test_what_was_drawn_in_the_midst_stays_and_its_logprobs_are_told(half: int) -> None:
    settings = replace(halves(half, 2), logprobs=1)
    *pieces, reply = session().stream_chat(CHAT, settings=settings)
    assert [piece.token for piece in pieces if isinstance(piece, Piece)] == [half, half]
    assert all(piece.logprobs for piece in pieces if isinstance(piece, Piece))
    assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == FALSE
    assert isinstance(reply, Reply)
    assert reply.text == FALSE


def test_the_server_s_replies_end_before_it(client: Client, half: int) -> None:
    body: dict[str, Any] = {"logit_bias": {str(half): 100}, "max_tokens": 1}
    chat, text = client.chat(**body).json(), client.complete(**body, echo=True).json()
    assert chat["choices"][0]["message"]["content"] == ""
    assert text["choices"][0]["text"] == "Rain is"
    for answer in (chat, text):
        assert answer["usage"]["completion_tokens"] == 1
        assert answer["choices"][0]["finish_reason"] == "length"
    for one in events(client.chat(**body, stream=True)):
        assert not one["choices"][0]["delta"].get("content")
    for one in events(client.complete(**body, stream=True)):
        assert not one["choices"][0]["text"]


def test_the_token_of_half_a_character_is_told_with_its_bytes(client: Client, half: int) -> None:
    body: dict[str, Any] = {"logit_bias": {str(half): 100}, "max_tokens": 1, "logprobs": True}
    (told,) = client.chat(**body).json()["choices"][0]["logprobs"]["content"]
    assert (told["token"], bytes(told["bytes"])) == (FALSE, PARTY.encode()[:2])


@pytest.mark.parametrize("kind", [ChatSteerplug, SteerplugLLM])
def test_langchain_s_replies_end_before_it(kind: Any, half: int) -> None:
    model = kind(model="smollm2", n_ctx=512, temperature=0, max_tokens=1, logit_bias={half: 100.0})
    said = model.invoke("Hello")
    assert getattr(said, "content", said) == ""
    assert "".join(str(getattr(chunk, "content", chunk)) for chunk in model.stream("Hello")) == ""
