"""Histories of any provider, read as one shape; LangChain's own converter is the judge of many."""

import dataclasses
import enum
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import openai
import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
)
from pydantic import BaseModel

from steerplug import ChatSteerplug, Sampling
from steerplug.chat.checking import check_messages
from steerplug.chat.messages import to_messages
from steerplug.chat.tool import ToolCall
from steerplug.chat.values import thoughts_of
from steerplug.engine.loading import Loading
from steerplug.errors import RequestError
from steerplug.langchain import local
from steerplug.langchain.messages import to_chat
from steerplug.session import Settings
from steerplug.session.shared import session_for
from tests.helpers.serving import Client, served

ADD = {"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}
CUT_OFF = {"name": "mul", "args": '{"a": 1, "b', "id": "2", "error": None,
           "type": "invalid_tool_call"}  # fmt: skip
CUT_OFF_IN_OPENAI = {"id": "2", "type": "function",
                     "function": {"name": "mul", "arguments": '{"a": 1, "b'}}  # fmt: skip
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def openai_call(arguments: object, name: str = "add") -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


# One shape


def test_a_text_is_a_message_of_the_user() -> None:
    assert to_messages("Hi") == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("arguments", ["", "  \n", None, "null", "{}", {}])
def test_no_arguments_are_an_empty_object(arguments: object) -> None:
    (message,) = to_messages([openai_call(arguments)])
    assert message["tool_calls"] == (ToolCall("1", "add", "{}"),)


@pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}])
def test_openai_calls_are_read_with_arguments_as_text_and_as_values(arguments: object) -> None:
    call, result = to_messages(
        [openai_call(arguments), {"role": "tool", "tool_call_id": "1", "content": "3"}]
    )
    assert call == {"role": "assistant", "content": "",
                    "tool_calls": (ToolCall("1", "add", '{"a": 1}'),)}  # fmt: skip
    assert result == {"role": "tool", "content": "3", "tool_call_id": "1", "name": "add"}


def test_what_is_read_once_is_read_alike_again() -> None:
    chat = [{"role": "developer", "content": "s"}, {"role": "user", "content": "q"},
            openai_call('{"a"'), {"role": "tool", "tool_call_id": "1", "content": [1]},
            openai_call("{}"),
            {"role": "tool", "tool_call_id": "1", "content": {"b": 2}}]  # fmt: skip
    assert to_messages(to_messages(chat)) == to_messages(chat)


def test_roles_of_other_providers_are_known() -> None:
    said = [ChatMessage(role=role, content="x") for role in ("developer", "human", "ai")]
    assert [m["role"] for m in to_chat(said)] == ["system", "user", "assistant"]
    legacy = AIMessage("", additional_kwargs={"function_call": {"name": "add", "arguments": ""}})
    call, result = to_chat([legacy, FunctionMessage(name="add", content="3")])
    (made,) = call["tool_calls"]
    assert (made.name, made.arguments) == ("add", "{}")
    assert result == {"role": "tool", "content": "3", "tool_call_id": made.id, "name": "add"}


def test_a_call_that_is_no_json_is_text_and_its_result_is_said_by_the_user() -> None:
    history: list[BaseMessage] = [
        HumanMessage("Go."),
        AIMessage("Now:", tool_calls=[ADD], invalid_tool_calls=[CUT_OFF]),
        ToolMessage("broken arguments", tool_call_id="2"),
        ToolMessage("3", tool_call_id="1"),
        HumanMessage("Again."),
    ]
    _, call, result, said, last = to_chat(history)
    assert call["content"] == 'Now:\nCall of `mul`:\n{"a": 1, "b'
    assert call["tool_calls"] == (ToolCall("1", "add", '{"a": 1}'),)
    assert (result["role"], result["content"]) == ("tool", "3")
    assert said == {"role": "user", "content": "Result of `mul`:\nbroken arguments"}
    assert last["content"] == "Again."


@pytest.mark.parametrize("arguments", ['{"a": 1, "b', "[1]", "3", "not json", "{'a': 1}"])
def test_arguments_that_are_no_object_never_reach_a_template(arguments: str) -> None:
    (message,) = to_messages([openai_call(arguments)])
    assert "tool_calls" not in message
    assert arguments in message["content"]
    check_messages([message])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "No."}], "a"),
        ([{"type": "refusal", "refusal": "No."}], "No."),
        ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}]}, "a"], "a"),
        ([{"type": "reasoning", "reasoning": "Hm"}, {"type": "text", "text": "a"}], "a"),
        ([{"type": "thinking", "thinking": "Hm", "signature": "x"}, "a"], "a"),
        ([{"type": "redacted_thinking", "data": "xx"}, "a"], "a"),
        ([{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
          {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, "a"], "a"),
        ([{"type": "web_search_call", "id": "w", "status": "completed"}, "a"], "a"),
        ([{"type": "code_interpreter_call", "id": "c", "code": "1"}, "a"], "a"),
        ([{"type": "server_tool_call", "id": "s", "name": "x", "args": {}}, "a"], "a"),
        ([{"type": "non_standard", "value": {"type": "mcp_list_tools", "tools": []}}, "a"], "a"),
        ([{"type": "executable_code", "executable_code": "1+1"}, "a"], "1+1a"),
        ([{"type": "of_tomorrow", "text": "b"}, "a"], "ba"),
        ([{"type": "of_tomorrow", "payload": 3}, "a"], "a"),
        ([{"type": "output_text", "text": "a", "annotations": []}], "a"),
        ([{"type": "text", "text": None}], ""),
    ],
)  # fmt: skip
def test_of_an_assistant_s_blocks_what_it_said_is_kept(content: Any, text: str) -> None:
    (message,) = to_chat([AIMessage(content)])
    assert message.pop("reasoning_content", "Hm") == "Hm"
    assert message == {"role": "assistant", "content": text}
    assert to_messages([{"role": "assistant", "content": content}])[0]["content"] == text


def test_standard_blocks_say_what_the_content_does() -> None:
    responses = AIMessage(
        [{"type": "reasoning", "id": "r", "summary": []},
         {"type": "text", "text": "Now:", "id": "m"},
         {"type": "function_call", "name": "add", "arguments": '{"a": 1}', "call_id": "1",
          "id": "fc"}],
        tool_calls=[ADD], response_metadata={"model_provider": "openai"},
    )  # fmt: skip
    anthropic = AIMessage(
        [{"type": "thinking", "thinking": "Hm", "signature": "x"}, {"type": "text", "text": "Now:"},
         {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}}],
        tool_calls=[ADD], response_metadata={"model_provider": "anthropic"},
    )  # fmt: skip
    expected = {"role": "assistant", "content": "Now:",
                "tool_calls": (ToolCall("1", "add", '{"a": 1}'),)}  # fmt: skip
    for message, thoughts in ((responses, {}), (anthropic, {"reasoning_content": "Hm"})):
        assert to_chat([message]) == [{**expected, **thoughts}]
        standard = AIMessage(content_blocks=message.content_blocks)
        assert to_chat([standard]) == [{**expected, **thoughts}]


@pytest.mark.parametrize(
    ("message", "thoughts"),
    [
        ({"content": [{"type": "reasoning", "reasoning": "Hm"}, "a"]}, "Hm"),
        ({"content": [{"type": "thinking", "thinking": "Hm", "signature": "x"}, "a"]}, "Hm"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]}, "Hm"),
        ({"content": [{"type": "reasoning_content", "reasoning_content": {"text": "Hm"}}]}, "Hm"),
        ({"content": [{"type": "text", "text": "Hm", "thought": True}, "a"]}, "Hm"),
        ({"content": [{"type": "reasoning", "summary": [
            {"type": "summary_text", "text": "Hm"}, {"type": "summary_text", "text": "So"}]}]},
         "Hm\n\nSo"),
        ({"content": "a", "reasoning": "Hm"}, "Hm"),
        ({"content": [{"type": "reasoning", "reasoning": "no"}], "thinking": "Hm"}, "Hm"),
    ],
)  # fmt: skip
def test_what_an_assistant_thought_is_kept_apart(message: dict[str, Any], thoughts: str) -> None:
    (read,) = to_messages([{"role": "assistant", **message}])
    assert thoughts_of(read) == thoughts
    assert "Hm" not in read["content"]


def test_thoughts_of_a_message_of_langchain_s_come_from_its_kwargs_too() -> None:
    message = AIMessage("a", additional_kwargs={"reasoning_content": "Hm"})
    assert to_chat([message])[0]["reasoning_content"] == "Hm"
    standard = AIMessage(content_blocks=message.content_blocks)
    assert to_chat([standard])[0]["reasoning_content"] == "Hm"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}},
        {"type": "function_call", "id": "fc", "call_id": "1", "name": "add",
         "arguments": '{"a": 1}'},
        {"type": "tool_call", "id": "1", "name": "add", "args": {"a": 1}},
    ],
)  # fmt: skip
def test_a_call_that_only_the_content_tells_is_a_call(block: dict[str, Any]) -> None:
    (message,) = to_messages([{"role": "assistant", "content": [block]}])
    assert message["tool_calls"] == (ToolCall("1", "add", '{"a": 1}'),)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, "b"], "ab"),
        ([{"type": "input_text", "text": "a"}], "a"),
        ([{"id": 1}, {"id": 2}], '[{"id": 1}, {"id": 2}]'),
        ([1, 2], "[1, 2]"),
        ({"when": date(2024, 1, 2)}, '{"when": "2024-01-02"}'),
        (3.5, "3.5"),
        (None, ""),
        ([{"type": "json", "json": {"a": 1}}], '{"type": "json", "json": {"a": 1}}'),
        ([], ""),
    ],
)
def test_what_a_tool_returned_is_text_or_its_json(content: object, text: str) -> None:
    (message,) = to_messages([{"role": "tool", "tool_call_id": "1", "content": content}])
    assert message["content"] == text


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


class Meeting(BaseModel):
    when: date


VALUES = [
    datetime(2024, 1, 2, tzinfo=UTC), UUID(int=1), Decimal("1.10"), b"text", b"\xff\xfe", {1},
    Colour.RED, Point(1), Meeting(when=date(2024, 1, 2)), Path("/a"), (1, 2), float("nan"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_json_cannot_hold_is_written_as_pydantic_writes_it(value: object) -> None:
    class Arguments(BaseModel):
        x: Any

    mode: Any = "base64" if value == b"\xff\xfe" else "utf8"
    expected = json.loads(
        Arguments.__pydantic_serializer__.to_json(Arguments(x=value))
        if mode == "utf8" else '{"x": "__4="}'
    )
    message = AIMessage("", tool_calls=[{**ADD, "args": {"x": value}}])
    (call,) = to_chat([message])[0]["tool_calls"]
    assert json.loads(call.arguments) == expected


def test_arrays_are_lists_and_unknown_values_their_text() -> None:
    class Odd:
        def __str__(self) -> str:
            return "odd"

    given = {"x": np.float32(1.5), "y": np.arange(2), "z": Odd()}
    (message,) = to_messages([openai_call(given)])
    assert message["tool_calls"][0].arguments == '{"x": 1.5, "y": [0, 1], "z": "odd"}'


HISTORIES: dict[str, list[BaseMessage]] = {
    "plain": [SystemMessage("s"), HumanMessage([{"type": "text", "text": "a"}]), AIMessage("b")],
    "calls": [HumanMessage("q"), AIMessage("", tool_calls=[ADD, {**ADD, "id": "9"}]),
              ToolMessage("3", tool_call_id="1"), ToolMessage("4", tool_call_id="9"),
              AIMessage("7")],
    "anthropic": [HumanMessage("q"), AIMessage(
        [{"type": "text", "text": "b"},
         {"type": "tool_use", "id": "1", "name": "add", "input": {"a": 1}}], tool_calls=[ADD],
    ), ToolMessage([{"type": "text", "text": "3"}], tool_call_id="1")],
    "named": [HumanMessage("q", name="bob"), AIMessage("a", name="eve")],
    "empty turns": [SystemMessage(""), HumanMessage(""), AIMessage(""), HumanMessage([])],
}  # fmt: skip


@pytest.mark.parametrize("kind", HISTORIES)
def test_a_history_is_the_same_from_langchain_and_as_its_converter_writes_it(kind: str) -> None:
    history = HISTORIES[kind]
    assert to_chat(history) == to_messages(convert_to_openai_messages(history))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (3, "the chat is a int; send a text or a list of messages"),
        ({"role": "user", "content": "x"}, "the chat is a dict"),
        (["x"], "message 0 is a str; send a mapping with role and content"),
        ([{"role": "user", "text": "x"}], "message 0 has no content"),
        ([{"role": "user", "content": {"a": 1}}], "message 0 has dict as content; send text"),
        ([{"role": "user", "content": [IMAGE]}], "message 0 holds a block of type 'image_url'"),
        ([{"role": "assistant", "content": [IMAGE]}], "message 0 holds a block of type 'image_url"),
        ([{"role": "tool", "content": [IMAGE]}], "message 0 holds a block of type 'image_url'"),
        ([{"role": "user", "content": [3]}], "message 0 holds 3 as a block; send text"),
        ([{"role": "assistant", "tool_calls": ["add"]}], "message 0 holds 'add' as a call"),
        ([{"role": "assistant", "tool_calls": [{"function": "f"}]}], "holds a call of 'f'"),
        ([{**openai_call("{}"), "role": "user"}], "message 0 calls tools as user"),
    ],
)
def test_what_is_no_chat_is_one_sentence(said: Any, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        to_messages(said)


def test_arguments_that_hold_themselves_are_one_sentence() -> None:
    loop: dict[str, Any] = {}
    loop["x"] = loop
    with pytest.raises(RequestError, match="a call of message 0 cannot be written as JSON"):
        to_messages([openai_call(loop)])


# Every door


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


def langchain(max_tokens: int) -> ChatSteerplug:
    """A model that replies greedily, without the cells of what other tests asked its session."""
    session_for("smollm2", Loading(n_ctx=512, n_threads=1)).engine.forget()
    return ChatSteerplug(temperature=0, max_tokens=max_tokens, n_ctx=512, n_threads=1)


ROUND: list[dict[str, Any]] = [
    {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "content": "Go."},
    {"role": "assistant", "content": None, "refusal": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "add", "arguments": ""}},
        CUT_OFF_IN_OPENAI,
    ]},
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "3"}]},
    {"role": "tool", "tool_call_id": "2", "content": "broken"},
]  # fmt: skip


SAME: list[BaseMessage] = [
    SystemMessage("Be brief."), HumanMessage("Go."),
    AIMessage("", tool_calls=[{**ADD, "args": {}}], invalid_tool_calls=[CUT_OFF]),
    ToolMessage([{"type": "text", "text": "3"}], tool_call_id="1"),
    ToolMessage("broken", tool_call_id="2"),
]  # fmt: skip


def test_a_history_of_another_provider_is_gone_on_with_alike_at_every_door(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = Settings(Sampling(temperature=0), max_tokens=8)
    client.session.engine.forget()
    expected = client.session.chat(ROUND, settings=greedy).text
    assert expected
    client.session.engine.forget()  # a cached prompt may round otherwise
    with openai.OpenAI(base_url=f"{client.root}/v1", api_key="x", max_retries=0) as ai:
        messages: Any = ROUND
        reply = ai.chat.completions.create(
            model="smollm2", messages=messages, max_tokens=8, temperature=0
        )
    assert reply.choices[0].message.content == expected
    client.session.engine.forget()
    # Another engine may round otherwise: on one machine it did, in the whole suite alone.
    monkeypatch.setattr(local, "session_for", lambda *_: client.session)
    model = ChatSteerplug(temperature=0, max_tokens=8, n_ctx=512, n_threads=1)
    assert model.invoke(SAME).content == expected


def test_a_text_and_an_empty_turn_are_answered_at_every_door(client: Client) -> None:
    session, settings = client.session, Settings(Sampling(temperature=0), max_tokens=4)
    session.engine.forget()
    empty = session.chat([{"role": "user", "content": ""}], settings=settings).text
    model = langchain(max_tokens=4)
    assert model.invoke([HumanMessage("")]).content == empty
    reply = client.chat(messages=[{"role": "user", "content": ""}], max_tokens=4).json()
    assert reply["choices"][0]["message"]["content"] == empty
    assert session.chat("Hi", settings=settings).text == session.chat(
        [{"role": "user", "content": "Hi"}], settings=settings
    ).text
    assert model.invoke("Hi").content == session.chat("Hi", settings=settings).text
