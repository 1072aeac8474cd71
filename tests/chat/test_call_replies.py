"""Replies with tool calls: the real model calls, is held to schemas, and is steered around calls.

Whether arguments follow their schema is judged by jsonschema.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from steerplug.chat.template import Message
from steerplug.chat.tool import CallPiece, Tool, ToolCall, Tools
from steerplug.engine import closing
from steerplug.engine.constraint import Constraint
from steerplug.engine.engine import Piece
from steerplug.engine.sampler import Sampling
from steerplug.errors import ContextOverflow, RequestError
from steerplug.session import Event, Session, Settings
from steerplug.session.receipt import Reply
from steerplug.steering.value import Delta, Steering
from tests.helpers.families import BOTH, FAMILIES, NOW, OSLO, WEATHER, template
from tests.helpers.tiny_models import tiny_model

ASK: list[Message] = [{"role": "user", "content": "How is the weather in Oslo?"}]
GREEDY = Sampling(temperature=0)
ONE = Settings(GREEDY, max_tokens=60, tools=Tools(BOTH, "required", parallel=False))
CITIES = (
    replace(WEATHER, parameters={
        "type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"],
        "additionalProperties": False,
    }),
    NOW,
)  # fmt: skip
"""What a model of random weights calls with few tokens, too."""
CLOSED = Settings(GREEDY, max_tokens=90, tools=Tools(CITIES, "required", parallel=False))
MARK = "<tool_call>"


@pytest.fixture(scope="module")
def session(quick_path: Path) -> Iterator[Session]:
    session = Session(quick_path, n_ctx=768, n_cells=4096, n_threads=1)
    yield session
    session.close()


@pytest.fixture(scope="module")
def tiny() -> Iterator[Session]:
    """A model of random weights, for what is held to a form whatever the model would say."""
    session = Session(tiny_model("llama"), n_ctx=2048, n_threads=1)
    yield session
    session.close()


def push(session: Session, size: float = 20.0) -> Steering:
    z = np.random.default_rng(7).standard_normal(session.model.n_embd)
    delta = Delta.constant((size * z / np.linalg.norm(z)).astype(np.float32))
    return Steering("push", session.model.n_embd, session.model.n_layer, {14: delta})


def shown() -> list[Message]:
    """Earlier turns in which tools were called, so that a small model goes on in this way."""
    chat: list[Message] = []
    for i, city in enumerate(("Rome", "Paris", "Lima")):
        arguments = json.dumps({"city": city, "days": 2})
        chat += [
            {"role": "user", "content": f"How is the weather in {city}?"},
            {"role": "assistant", "content": "",
             "tool_calls": [ToolCall(f"call0000{i}", "get_weather", arguments)]},
            {"role": "tool", "content": "Sunny.", "tool_call_id": f"call0000{i}"},
            {"role": "assistant", "content": f"It is sunny in {city}."},
        ]  # fmt: skip
    return [*chat, *ASK]


def valid(call: ToolCall, tools: tuple[Tool, ...] = BOTH) -> bool:
    (schema,) = (tool.parameters for tool in tools if tool.name == call.name)
    return Draft202012Validator(schema).is_valid(json.loads(call.arguments))


def gathered(events: list[Event]) -> tuple[str, list[tuple[str, str, str]]]:
    """The text and the calls, put together from the parts of a stream."""
    text = "".join(event.text for event in events if isinstance(event, Piece))
    calls: list[list[str]] = []
    for event in events:
        if isinstance(event, CallPiece):
            if event.id is not None and event.name is not None:
                calls.append([event.id, event.name, ""])
            calls[event.index][2] += event.arguments
    return text, [(i, name, arguments) for i, name, arguments in calls]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_form_is_called_in_and_read_back(
    family: str, tiny: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "template", template(family, tiny.model))
    *events, reply = tiny.stream_chat(ASK, None, CLOSED)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    (call,) = reply.tool_calls
    assert valid(call, CITIES)
    assert gathered(events) == ("", [(call.id, call.name, call.arguments)])
    assert len(call.id) == 9
    assert call.id.isalnum()


def test_calls_are_held_to_their_schema_however_wildly_they_are_drawn(tiny: Session) -> None:
    for seed in range(6):
        wild = replace(ONE, sampling=Sampling(temperature=2.0, top_k=0, top_p=1.0, seed=seed))
        reply = tiny.chat(ASK, None, replace(wild, max_tokens=90))
        assert [valid(call) for call in reply.tool_calls] == [True]


def test_the_tool_that_is_asked_for_is_called(tiny: Session) -> None:
    settings = replace(ONE, tools=Tools(BOTH, "now"))
    assert [c.name for c in tiny.chat(ASK, None, settings).tool_calls] == ["now"]


def test_the_model_chooses_to_call_after_text_that_streams(session: Session) -> None:
    settings = replace(ONE, tools=Tools(BOTH), max_tokens=120)
    *events, reply = session.stream_chat(shown(), None, settings)
    assert isinstance(reply, Reply)
    assert reply.finish_reason in ("tool_calls", "length")
    assert [(c.name, json.loads(c.arguments)["city"]) for c in reply.tool_calls[:1]] == [
        ("get_weather", "Oslo")
    ]
    assert all(valid(call) for call in reply.tool_calls)
    text, calls = gathered(events)
    assert text == reply.text
    assert calls[: len(reply.tool_calls)] == [
        (c.id, c.name, c.arguments) for c in reply.tool_calls
    ]


def test_a_call_that_the_model_chose_is_held_to_its_schema(session: Session) -> None:
    other = {"type": "object", "required": ["place", "weeks"], "properties": {
        "place": {"type": "string"}, "weeks": {"type": "integer", "minimum": 5}}}  # fmt: skip
    tools = (replace(WEATHER, parameters=other),)  # and its earlier calls were different
    settings = replace(ONE, tools=Tools(tools, parallel=False))
    (call,) = session.chat(shown(), None, settings).tool_calls
    assert valid(call, tools)


def test_no_mask_is_computed_for_text(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_self: Constraint) -> Any:
        raise AssertionError

    monkeypatch.setattr(Constraint, "allowed", never)
    reply = session.chat(ASK, None, replace(ONE, tools=Tools(BOTH), max_tokens=10))
    assert reply.text
    assert reply.tool_calls == ()


def test_tools_that_may_not_be_called_are_shown_and_not_called(session: Session) -> None:
    none = replace(ONE, tools=Tools(BOTH, "none"))
    reply = session.chat(shown(), None, none)
    assert reply.tool_calls == ()
    assert reply.text
    assert MARK not in reply.text
    assert reply.finish_reason in ("stop", "length")
    called = session.chat(shown(), None, replace(ONE, tools=Tools(BOTH)))
    assert called.usage.prompt_tokens == reply.usage.prompt_tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stop_string_ends_text_and_no_call(
    family: str, tiny: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "template", template(family, tiny.model))
    reply = tiny.chat(ASK, None, replace(CLOSED, stop=('"', "\n", "name", "<", "[", "{")))
    assert len(reply.tool_calls) == 1
    assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize("family", ["plain", "Llama"])
def test_a_format_is_an_answer_beside_calls(
    family: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "template", template(family, session.model))
    schema = {"type": "object", "properties": {"sky": {"enum": ["blue", "grey"]}},
              "required": ["sky"], "additionalProperties": False}  # fmt: skip
    settings = replace(ONE, tools=Tools(BOTH, parallel=False), format=schema)
    chat: list[Message] = [{"role": "user", "content": 'Say {"sky": "grey"} or {"sky": "blue"}.'}]
    said = set()
    for seed in range(6):
        warm = replace(settings, sampling=Sampling(temperature=1.5, seed=seed))
        reply = session.chat(chat, None, warm)
        said.add(bool(reply.tool_calls))
        if reply.tool_calls:
            assert reply.text == ""
            assert valid(reply.tool_calls[0])
        else:
            assert set(json.loads(reply.text)) == {"sky"}
    assert said == {True, False}


def test_an_event_loop_sees_the_same(tiny: Session) -> None:
    async def run() -> list[Event]:
        return [event async for event in tiny.astream_chat(ASK, None, ONE)]

    *events, reply = asyncio.run(run())
    assert isinstance(reply, Reply)
    same = tiny.chat(ASK, None, ONE)
    assert gathered(events)[1][0][1:] == (same.tool_calls[0].name, same.tool_calls[0].arguments)
    assert reply.tool_calls[0].id != same.tool_calls[0].id


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        (Tools((), "required"), "there are no tools"),
        (Tools((NOW, NOW)), "two tools are named 'now'"),
        (Tools((WEATHER,), "weather"), "did you mean `get_weather`"),
    ],
)
def test_wrong_tools_are_refused_by_the_call_itself(
    tools: Tools, said: str, session: Session
) -> None:
    with pytest.raises(RequestError, match=said):
        session.stream_chat(ASK, None, Settings(tools=tools))
    with pytest.raises(RequestError, match="plain text that is continued calls no tools"):
        session.stream_complete("The sea", None, Settings(tools=Tools(BOTH)))


# Steering


def test_calls_are_not_steered_and_what_leads_to_them_is(session: Session) -> None:
    # Steered: what predicts the mark, token by token. Not steered: from the end of the mark on.
    n_mark = len(session.model.vocab.tokenize(MARK))
    reply = session.chat(ASK, push(session), ONE)
    assert reply.receipt.tokens_steered == n_mark
    assert len(reply.tool_calls) == 1
    asked = replace(ONE, tools=replace(ONE.tools, steered=True))
    steered = session.chat(ASK, push(session), asked)
    assert steered.receipt.tokens_steered == steered.usage.completion_tokens
    left_out = replace(asked, unsteered=frozenset({"constrained"}))
    assert session.chat(ASK, push(session), left_out).receipt.tokens_steered == n_mark


def test_a_turn_with_a_call_comes_back_as_it_was_generated(session: Session) -> None:
    settings = replace(ONE, tools=Tools(BOTH, "get_weather"))
    mix = push(session)
    first = session.chat(ASK, mix, settings)
    (call,) = first.tool_calls
    back = [*ASK, {"role": "assistant", "content": first.text, "tool_calls": first.tool_calls},
            {"role": "tool", "content": "4 °C", "tool_call_id": call.id}]  # fmt: skip
    reply = session.chat(back, mix, replace(settings, tools=Tools(BOTH), max_tokens=6))
    drawn = first.usage.prompt_tokens + first.usage.completion_tokens - 1
    assert reply.usage.cached_tokens >= drawn
    n_end = 1  # the end of the closing mark, which predicts the turn's end and was not decoded yet
    assert reply.receipt.tokens_steered == (
        first.receipt.tokens_steered + n_end + reply.usage.completion_tokens
    )


def test_a_reply_that_a_phase_leaves_out_whole_is_no_error(session: Session) -> None:
    settings = Settings(GREEDY, max_tokens=12, format={"type": "object"},
                        unsteered=frozenset({"constrained"}))  # fmt: skip
    reply = session.chat(ASK, push(session), settings)
    assert reply.receipt.tokens_steered == 0
    assert reply.text == session.chat(ASK, None, settings).text


def test_text_beside_tools_is_steered_as_ever(session: Session) -> None:
    settings = Settings(GREEDY, max_tokens=6, tools=Tools(BOTH))
    *events, reply = session.stream_chat(ASK, push(session), settings)
    assert isinstance(reply, Reply)
    assert reply.receipt.tokens_steered == reply.usage.completion_tokens
    assert all(event.moved > 0 for event in events if isinstance(event, Piece))


# Room

LETTER = Tool("write", "Write a letter.", {
    "type": "object", "required": ["text", "to"], "additionalProperties": False,
    "properties": {"text": {"type": "string", "minLength": 4}, "to": {"enum": ["a", "b"]}},
})  # fmt: skip


def refused(session: Session, chat: list[Message], settings: Settings) -> int:
    """The number of tokens that a refusal asks for."""
    with pytest.raises(RequestError, match=rf"max_tokens is {settings.max_tokens}, but") as refusal:
        session.chat(chat, None, settings)
    found = re.search(r"only sure to be whole with (\d+); raise it\.$", str(refusal.value))
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_that_has_to_come_is_refused_with_less_room_than_it_is_sure_to_fit_into(
    family: str, tiny: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "template", template(family, tiny.model))
    tools, drawn = Tools((LETTER,), "write"), Sampling(temperature=1.5, seed=3)
    wild = Settings(drawn, max_tokens=4, tools=tools)
    n = refused(tiny, ASK, wild)
    assert refused(tiny, ASK, replace(wild, max_tokens=n - 1)) == n
    for more in (0, 3):
        reply = tiny.chat(ASK, None, replace(wild, max_tokens=n + more))
        assert [valid(call, (LETTER,)) for call in reply.tool_calls] == [True]
        assert reply.usage.completion_tokens <= n + more


def test_a_context_that_is_too_full_for_the_call_that_has_to_come_is_an_overflow(
    session: Session
) -> None:
    def asked(n: int) -> list[Message]:
        return [{"role": "user", "content": "rain " * n}]

    empty = len(session.template.prompt(asked(0), (LETTER,)).tokens)
    long = asked(session.engine.n_ctx - empty - 20)
    for max_tokens in (None, 60):
        with pytest.raises(ContextOverflow, match=r"leaves room for \d+, but what is"):
            session.chat(long, None, Settings(GREEDY, max_tokens=max_tokens,
                                              tools=Tools((LETTER,), "required")))  # fmt: skip


def test_room_shortens_arguments_and_never_chooses_the_tool(session: Session) -> None:
    def asked(choice: str, room: int) -> Settings:
        return replace(ONE, tools=Tools(BOTH, choice, parallel=False), max_tokens=room)

    n = refused(session, shown(), asked("get_weather", 4))  # which the model would call
    n_other = refused(session, shown(), asked("now", 4))
    assert n_other < n
    assert refused(session, shown(), asked("required", n_other)) == n
    *events, reply = session.stream_chat(shown(), None, asked("auto", n_other))
    assert isinstance(reply, Reply)
    assert (reply.text, reply.tool_calls, reply.finish_reason) == ("", (), "length")
    assert not any(isinstance(event, CallPiece) for event in events)
    for choice in ("required", "auto"):
        reply = session.chat(shown(), None, asked(choice, n))
        assert [call.name for call in reply.tool_calls] == ["get_weather"]
        assert reply.finish_reason == "length"


def test_half_a_call_is_not_begun(session: Session) -> None:
    text = replace(ONE, tools=Tools(BOTH), max_tokens=8)
    *events, reply = session.stream_chat(shown(), None, text)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish_reason) == ("", "length")
    assert reply.usage.completion_tokens == len(session.model.vocab.tokenize(MARK))
    assert not any(isinstance(event, CallPiece) for event in events)


def test_whole_calls_are_why_a_reply_ended_though_its_room_did_too(session: Session) -> None:
    vocab = session.model.vocab
    ends = [token for token in range(vocab.n_tokens) if vocab.ends_generation(token)]
    chatty = Sampling(temperature=2.0, seed=3, logit_bias=dict.fromkeys(ends, -100.0))
    settings = Settings(chatty, max_tokens=160, tools=Tools(BOTH, "required", parallel=True))
    several = session.chat(ASK, None, settings)
    assert len(several.tool_calls) > 1
    once = session.chat(ASK, None, replace(settings, tools=replace(settings.tools, parallel=False)))
    n = once.usage.completion_tokens
    for room in (n, n + 4):  # the second call has no room at all, or too little
        reply = session.chat(ASK, None, replace(settings, max_tokens=room))
        assert len(reply.tool_calls) == 1
        assert reply.tool_calls[0].arguments == once.tool_calls[0].arguments
        assert reply.finish_reason == "tool_calls"
    short = session.chat(ASK, None, replace(settings, max_tokens=n - 2))
    assert short.finish_reason == "length"
    assert len(short.tool_calls) == 1


def test_a_reply_that_ends_in_the_midst_of_a_call_is_an_error(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("_WATCHED", "_MOST_NEEDED"):  # as for a call of thousands of tokens
        monkeypatch.setattr(closing, limit, 2)
    for tools in (Tools((LETTER,), "write"), Tools(BOTH)):
        settings = replace(ONE, max_tokens=26, tools=tools)
        with pytest.raises(RequestError, match=r"call of `\w+` is not whole after 26 tokens"):
            session.chat(shown(), None, settings)


# Results


def test_a_result_is_answered(session: Session) -> None:
    back = [*ASK, {"role": "assistant", "content": "", "tool_calls": (OSLO,)},
            {"role": "tool", "content": "Sunny, 4 °C.", "tool_call_id": OSLO.id}]  # fmt: skip
    assert session.chat(back, None, Settings(GREEDY, max_tokens=20)).text
