"""A model that thinks, as LangChain sees it: blocks, chunks, agents and what comes back in."""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from steerplug import ChatSteerplug
from steerplug.engine.loading import Loading
from steerplug.errors import RequestError
from steerplug.session.shared import forget_sessions, session_for
from tests.helpers.thinking import Script, scripted, template
from tests.helpers.tiny_models import tiny_model

N_CTX = 512
ANSWER = "<think>\nHm, so.\n</think>\n\nBlue.<|im_end|>"

def path() -> str:
    """A tiny model, for a test says what it writes."""
    return str(tiny_model("llama"))


@pytest.fixture(autouse=True, scope="module")
def forgotten() -> Iterator[None]:
    yield
    forget_sessions()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    session = session_for(path(), Loading(n_ctx=N_CTX, n_threads=1))
    monkeypatch.setattr(session, "template", template("Qwen3", session.model))
    return scripted(session.model, monkeypatch)


def chat(**fields: Any) -> ChatSteerplug:
    said: dict[str, Any] = {"temperature": 0, "max_tokens": 90, "n_ctx": N_CTX, "n_threads": 1}
    return ChatSteerplug(**{"model": path(), **said, **fields})


def joined(chunks: list[Any]) -> AIMessageChunk:
    whole: AIMessageChunk = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def check(reply: AIMessage) -> None:
    assert reply.text == "Blue."
    assert [
        (block["type"], block.get("reasoning") or block.get("text"))
        for block in reply.content_blocks
    ] == [("reasoning", "Hm, so."), ("text", "Blue.")]  # fmt: skip
    assert reply.usage_metadata is not None
    details = reply.usage_metadata["output_token_details"]
    assert 3 < details["reasoning"] < reply.usage_metadata["output_tokens"]


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_thoughts_are_blocks_before_the_answer(script: Script, version: str) -> None:
    script(ANSWER)
    reply = chat(output_version=version).invoke("Why?")
    check(reply)
    if version == "v0":
        assert reply.content == "Blue."
        assert reply.additional_kwargs == {"reasoning_content": "Hm, so."}
    else:
        assert [block["type"] for block in reply.content] == ["reasoning", "text"]  # type: ignore[index]


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_stream_tells_thoughts_as_they_come(script: Script, version: str) -> None:
    script(ANSWER)
    chunks = list(chat(output_version=version).stream("Why?"))
    blocks = [block for chunk in chunks for block in chunk.content_blocks]
    kinds = [block["type"] for block in blocks]
    assert kinds.index("text") == kinds.count("reasoning") > 1
    check(joined(chunks))


async def test_the_same_holds_on_an_event_loop(script: Script) -> None:
    script(ANSWER)
    check(await chat().ainvoke("Why?"))
    script(ANSWER)
    check(joined([chunk async for chunk in chat().astream("Why?")]))


def now() -> str:
    """The time."""
    return "7"


CALL = '<think>\nI look.\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_an_agent_replays_what_was_thought_in_its_turn(
    script: Script, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_for(path(), Loading(n_ctx=N_CTX, n_threads=1))
    written: list[str] = []
    prompt = session.template.prompt

    def noted(*args: Any, **kwargs: Any) -> Any:
        made = prompt(*args, **kwargs)
        written.append(session.model.vocab.text(list(made.tokens), special=True))
        script(
            CALL + "<|im_end|>"
            if len(written) == 1
            else "<think>\nOh.\n</think>\n\nAt 7.<|im_end|>"
        )
        return made

    monkeypatch.setattr(session.template, "prompt", noted)
    agent: Any = create_agent(chat(output_version=version), [now])
    said: list[BaseMessage] = agent.invoke({"messages": [HumanMessage("When?")]})["messages"]
    assert said[-1].text == "At 7."
    assert CALL in written[1]


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("So.", additional_kwargs={"reasoning_content": "Hm."}),
        AIMessage([{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "So."}]),
        AIMessage([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "So."}]),
    ],
)
def test_thoughts_come_back_in_either_shape(script: Script, message: AIMessage) -> None:
    script(" It is.<|im_end|>")
    reply = chat().invoke([HumanMessage("Why?"), message], continue_final_message=True)
    assert reply.text == " It is."


@pytest.mark.parametrize(
    ("fields", "arguments", "configured"),
    [
        ({"enable_thinking": False}, {}, {}),
        ({}, {"enable_thinking": False}, {}),
        ({"enable_thinking": True}, {}, {"enable_thinking": False}),
        ({}, {"reasoning_effort": "none"}, {}),
        ({}, {}, {"thinking_budget_tokens": 0}),
        ({}, {"chat_template_kwargs": {"enable_thinking": False}}, {}),
    ],
)
def test_thinking_is_switched_by_field_call_and_config(
    script: Script, fields: dict[str, Any], arguments: dict[str, Any], configured: dict[str, Any]
) -> None:
    script("Blue.<|im_end|>")
    config: RunnableConfig = {"configurable": configured}
    reply = chat(**fields).invoke("Why?", config, **arguments)
    assert (reply.text, reply.additional_kwargs) == ("Blue.", {})


def test_a_budget_reaches_the_model_through_with_config(script: Script) -> None:
    script("<think>\na b c d e f")
    model = chat().with_config(configurable={"thinking_budget_tokens": 4})
    assert model.invoke("Why?").additional_kwargs == {"reasoning_content": "a b c"}
    ids = [spec.id for spec in chat().config_specs]
    assert {"steering", "enable_thinking", "thinking_budget_tokens"} <= set(ids)


def test_what_cannot_be_switched_is_said(script: Script) -> None:
    script(ANSWER)
    with pytest.raises(RequestError, match="reads no reasoning_effort"):
        chat(reasoning_effort="low").invoke("Why?")
    with pytest.raises(RequestError, match="thinking_budget_tokens is -1"):
        chat(thinking_budget_tokens=-1)


def test_structured_output_is_read_behind_a_thought(script: Script) -> None:
    script("I <think> of {nothing}.\n</think>")
    schema = {"title": "Kind", "type": "object", "required": ["kind"],
              "properties": {"kind": {"enum": ["drizzle", "storm"]}}}  # fmt: skip
    for method in ("json_schema", "function_calling"):
        script("I think of {nothing}.\n</think>")
        model: BaseChatModel = chat(max_tokens=120)
        kind = model.with_structured_output(schema, method=method).invoke("Why?")
        assert kind["kind"] in ("drizzle", "storm")  # type: ignore[index]
