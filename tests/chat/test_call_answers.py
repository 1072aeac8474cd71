"""Replies that are a call as a whole, without the marks of their template; and calls made twice."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerplug.chat.calls.answers import ANSWERS, ways
from steerplug.chat.calls.form import BARE, LISTED, TAGGED, Form
from steerplug.chat.calls.plain import written
from steerplug.chat.calls.stream import CallStream
from steerplug.chat.template import Message
from steerplug.chat.tool import CallPiece, ToolCall, Tools
from steerplug.engine.engine import Piece
from steerplug.engine.sampler import Sampling
from steerplug.session import Session, Settings
from steerplug.session.receipt import Reply
from tests.helpers.families import BOTH, CLOCK, OSLO

GREEDY = Settings(Sampling(temperature=0), max_tokens=60, tools=Tools(BOTH))
SHAPES = ("%s", "```json\n%s\n```", "[%s]")


@pytest.fixture(scope="module")
def session(quick_path: Path) -> Iterator[Session]:
    session = Session(quick_path, n_ctx=768, n_threads=1)
    yield session
    session.close()


def answered(shape: str, name: str = "get_weather") -> list[Message]:
    """A chat in which the assistant answered so, and a small model goes on so."""
    chat: list[Message] = []
    for city in ("Rome", "Paris"):
        call = json.dumps({"name": name, "arguments": {"city": city, "days": 2}})
        chat += [
            {"role": "user", "content": f"How is the weather in {city}?"},
            {"role": "assistant", "content": shape % call},
            {"role": "user", "content": "Thanks, it worked."},
            {"role": "assistant", "content": "Fine."},
        ]
    return [*chat, {"role": "user", "content": "How is the weather in Oslo?"}]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_reply_that_is_a_call_is_read_as_one_and_streams_as_one(
    shape: str, session: Session
) -> None:
    *events, reply = session.stream_chat(answered(shape), None, GREEDY)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    (call,) = reply.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo", "days": 2})
    parts = [event for event in events if isinstance(event, CallPiece)]
    assert "".join(part.arguments for part in parts) == call.arguments
    assert len(parts) > 3
    assert not any(event.text for event in events if isinstance(event, Piece))


def test_where_no_tool_may_be_called_the_same_is_text(session: Session) -> None:
    reply = session.chat(answered("%s"), None, replace(GREEDY, tools=Tools(BOTH, "none")))
    assert json.loads(reply.text)["name"] == "get_weather"
    assert reply.tool_calls == ()


def test_json_that_names_no_tool_is_text(session: Session) -> None:
    *events, reply = session.stream_chat(answered("%s", "get_news"), None, GREEDY)
    assert isinstance(reply, Reply)
    assert json.loads(reply.text)["name"] == "get_news"
    assert "".join(event.text for event in events if isinstance(event, Piece)) == reply.text
    assert reply.tool_calls == ()


def test_a_call_that_fits_no_tool_is_held_to_its_schema(session: Session) -> None:
    (weather, *_) = BOTH
    other = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    tools = Tools((replace(weather, parameters=other),))
    reply = session.chat(answered("%s"), None, replace(GREEDY, tools=tools))
    assert [list(json.loads(call.arguments)) for call in reply.tool_calls] == [["place"]]


# Reading


@st.composite
def cut(draw: st.DrawFn) -> tuple[Form, str, list[str]]:
    """A reply that is a call in any form, and the same cut into pieces anywhere."""
    form = draw(st.sampled_from([*ANSWERS, TAGGED, BARE, LISTED]))
    calls = [OSLO, CLOCK][: 2 if form.again else 1]
    text = draw(st.sampled_from(["", "\n "])) + written(calls, form)
    cuts = sorted(draw(st.sets(st.integers(1, len(text) - 1), max_size=12)))
    return form, text, [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]


def read(text: str, pieces: list[str], form: Form = TAGGED) -> tuple[str, CallStream]:
    """Read a reply in pieces, the last of which tells that there was a call; return its text."""
    known = ways(form, Tools(BOTH))
    stream, said, seen = CallStream(known), "", ""
    for piece in pieces:
        seen += piece
        in_call = any(opening.find(seen) for _, opening in known)
        said += "".join(part for part in stream.feed(piece, in_call) if isinstance(part, str))
        assert text.startswith(said)
    return said + stream.finish(), stream


@settings(max_examples=100, deadline=None)
@given(cut())
def test_calls_in_any_form_are_read_back_however_they_are_cut(
    case: tuple[Form, str, list[str]],
) -> None:
    form, text, pieces = case
    said, stream = read(text, pieces, LISTED if form is LISTED else TAGGED)
    assert said.strip() == ""
    made = [(call.name, call.arguments) for call in stream.calls]
    calls = (OSLO, CLOCK) if form.again else (OSLO,)
    assert made == [(call.name, call.arguments) for call in calls]


@pytest.mark.parametrize(
    ("held", "further"),
    [("", "Well, {"), ('{"na', "ked"), ('{"name": "no', "body"), ('{"name": "get_', "news"),
     ("```js", "x"), ("```\n{", "}"), ('{\n  "name":\n "now"\n, "', 'x": "arguments":')],
)  # fmt: skip
def test_text_is_held_back_only_while_it_may_become_a_call(held: str, further: str) -> None:
    stream, said = CallStream(ways(TAGGED, Tools(BOTH))), ""
    for n, letter in enumerate(held + further):
        said += "".join(map(str, stream.feed(letter, False)))
        assert (said == "") == (n < len(held))
    assert said == held + further
    assert stream.finish() == ""


# Calls made twice


def test_a_call_that_is_made_again_ends_the_reply(session: Session) -> None:
    ends = [token for token in range(session.model.vocab.n_tokens)
            if session.model.vocab.ends_generation(token)]  # fmt: skip
    endless = Sampling(temperature=0, logit_bias=dict.fromkeys(ends, -100.0))
    asked = replace(GREEDY, sampling=endless, max_tokens=160)
    *events, reply = session.stream_chat(answered("```json\n%s\n```"), None, asked)
    assert isinstance(reply, Reply)
    made = [(call.name, call.arguments) for call in reply.tool_calls]
    assert len(made) == len(set(made)) >= 1
    assert reply.finish_reason == "tool_calls"
    assert reply.usage.completion_tokens < 160
    parts = [event for event in events if isinstance(event, CallPiece)]
    assert [part.id for part in parts if part.id] == [call.id for call in reply.tool_calls]


def test_a_call_like_an_earlier_one_is_held_back_until_it_differs() -> None:
    calls = [ToolCall("", "now", "{}"), ToolCall("", "now", '{"x": 1}'),
             ToolCall("", "now", '{"x": 1}'), ToolCall("", "now", '{"x": 2}')]  # fmt: skip
    stream = CallStream(ways(TAGGED, Tools(BOTH)))
    parts = [part for letter in written(calls, TAGGED) for part in stream.feed(letter, True)]
    assert [call.arguments for call in stream.calls] == ["{}", '{"x": 1}']
    assert "".join(part.arguments for part in parts if isinstance(part, CallPiece)) == '{}{"x": 1}'
    assert stream.unfinished is None
    assert stream.finish() == ""


@pytest.mark.parametrize(
    ("choice", "parallel", "several"),
    [("auto", None, True), ("auto", False, False), ("required", None, False), ("now", None, False),
     ("required", True, True), ("now", True, True), ("required", False, False)],
)  # fmt: skip
def test_a_call_that_has_to_come_is_one_unless_more_are_asked_for(
    choice: str, parallel: bool | None, several: bool
) -> None:
    assert Tools(BOTH, choice, parallel).several == several
