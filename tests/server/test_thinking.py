"""A model that thinks, as the real OpenAI client sees it."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from steerplug.server.errors import Refused
from steerplug.server.requests import ChatBody
from steerplug.server.thinking import AskedThinking, asked_thinking
from steerplug.session import Session
from tests.helpers.serving import NAME, QUESTION, Client, served
from tests.helpers.thinking import Script, scripted, template
from tests.helpers.tiny_models import tiny_model

CALLED = {"name": "now", "arguments": "{}"}
NOW: Any = {"type": "function", "function": {"name": "now", "description": "The time."}}


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A tiny model: what it writes is said by a test."""
    session = Session(tiny_model("llama"), n_ctx=512, n_cells=2048, n_threads=1)
    yield session
    session.close()


@pytest.fixture(scope="module")
def client(session: Session) -> Iterator[Client]:
    with served(session) as client:
        yield client


@pytest.fixture
def ai(client: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{client.root}/v1", api_key="x", max_retries=0) as ai:
        yield ai


@pytest.fixture
def family(
    request: pytest.FixtureRequest, session: Session, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The family whose template the model has."""
    name: str = getattr(request, "param", "Qwen3")
    monkeypatch.setattr(session, "template", template(name, session.model))
    return name


@pytest.fixture
def script(session: Session, monkeypatch: pytest.MonkeyPatch) -> Script:
    return scripted(session.model, monkeypatch)


def ask(ai: openai.OpenAI, **said: Any) -> Any:
    body = {"model": NAME, "messages": QUESTION, "max_tokens": 120, "temperature": 0, **said}
    known = {"model", "messages", "max_tokens", "temperature", "stream", "stream_options", "tools",
             "tool_choice", "response_format", "logprobs", "reasoning_effort"}  # fmt: skip
    extra = {name: body.pop(name) for name in set(body) - known}
    return ai.chat.completions.create(**body, extra_body=extra)


THOUGHTS = {
    "Qwen3": "<think>\nHm, so.\n</think>\n\nBlue.<|im_end|>",
    "Qwen3.5": "Hm, so.\n</think>\n\nBlue.<|im_end|>",
    "DeepSeek R1": "Hm, so.\n</think>\n\nBlue.<|im_end|>",
    "gpt-oss": "<|channel|>analysis<|message|>Hm, so.<|end|><|start|>assistant<|channel|>final"
               "<|message|>Blue.<|im_end|>",
    "GLM 4.5": "\n<think>Hm, so.</think>\nBlue.<|im_end|>",
    "Gemma 4": "<|channel>thought\nHm, so.\n<channel|>Blue.<|im_end|>",
    "Granite 3.3": "<think>Hm, so.</think><response>Blue.</response><|im_end|>",
    "Magistral": "[THINK]Hm, so.[/THINK]Blue.<|im_end|>",
}  # fmt: skip


@pytest.mark.parametrize("family", THOUGHTS, indirect=True)
def test_thoughts_come_beside_the_answer(ai: openai.OpenAI, family: str, script: Script) -> None:
    script(THOUGHTS[family])
    reply = ask(ai)
    message = reply.choices[0].message
    assert (message.content, message.reasoning_content) == ("Blue.", "Hm, so.")
    assert reply.choices[0].finish_reason == "stop"
    assert (
        3
        <= reply.usage.completion_tokens_details.reasoning_tokens
        < (reply.usage.completion_tokens)
    )


@pytest.mark.parametrize("family", ["Qwen3", "gpt-oss"], indirect=True)
@pytest.mark.parametrize("extra", [{}, {"logprobs": True}])
def test_a_stream_tells_thoughts_in_deltas_of_their_own(
    ai: openai.OpenAI, family: str, script: Script, extra: dict[str, Any]
) -> None:
    script(THOUGHTS[family])
    chunks = list(ask(ai, stream=True, stream_options={"include_usage": True}, **extra))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert "".join(thoughts) == "Hm, so."
    assert sum(map(bool, thoughts)) > 1
    assert "".join(delta.content or "" for delta in deltas) == "Blue."
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens > 3


def test_logprobs_are_those_of_the_answer(ai: openai.OpenAI, family: str, script: Script) -> None:
    script(THOUGHTS[family])
    told = ask(ai, logprobs=True).choices[0].logprobs.content
    assert "".join(token.token for token in told) == "Blue."


@pytest.mark.usefixtures("family")
def test_a_thought_that_is_cut_off_is_a_thought(ai: openai.OpenAI, script: Script) -> None:
    script("<think>\nOne two three four five six")
    choice = ask(ai, max_tokens=8).choices[0]
    assert choice.message.reasoning_content.startswith("One two")
    assert (choice.message.content, choice.finish_reason) == ("", "length")


@pytest.mark.parametrize("said", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_may_be_left_out(
    ai: openai.OpenAI, family: str, script: Script, said: dict[str, Any], stream: bool
) -> None:
    script(THOUGHTS[family])
    reply = ask(ai, stream=stream, **said)
    if stream:
        deltas = [chunk.choices[0].delta for chunk in reply]
        assert "".join(delta.content or "" for delta in deltas) == "Blue."
        assert not any(getattr(delta, "reasoning_content", None) for delta in deltas)
    else:
        assert reply.choices[0].message.content == "Blue."
        assert not hasattr(reply.choices[0].message, "reasoning_content")


@pytest.mark.parametrize("family", ["Qwen3", "Qwen3.5", "gpt-oss"], indirect=True)
def test_a_format_holds_the_answer_behind_a_thought(
    ai: openai.OpenAI, family: str, script: Script
) -> None:
    script(f"Well {{no JSON}}.{'<|end|>' if family == 'gpt-oss' else '</think>'}")
    schema = {"type": "object", "properties": {"kind": {"enum": ["drizzle", "storm"]}},
              "required": ["kind"], "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    message = ask(ai, response_format=form, max_tokens=120).choices[0].message
    assert message.reasoning_content == "Well {no JSON}."
    assert message.content in ('{"kind": "drizzle"}', '{"kind": "storm"}')


@pytest.mark.usefixtures("family")
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_call_follows_a_thought(ai: openai.OpenAI, script: Script, choice: str) -> None:
    begin = "<think>\n" if choice == "auto" else ""  # a forced call opens its thought itself
    script(begin + 'I <tool_call> it.\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n'
           "</tool_call><|im_end|>")  # fmt: skip
    reply = ask(ai, tools=[NOW], tool_choice=choice).choices[0]
    assert reply.message.reasoning_content == "I <tool_call> it."
    assert [call.function.name for call in reply.message.tool_calls] == ["now"]
    assert (reply.message.content, reply.finish_reason) == (None, "tool_calls")


@pytest.mark.usefixtures("family")
@pytest.mark.parametrize("family", ["gpt-oss"], indirect=True)
@pytest.mark.parametrize("thought", ["", "I look."])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_may_stand_in_a_frame(
    ai: openai.OpenAI, script: Script, thought: str, stream: bool
) -> None:
    begin = f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant" if thought else ""
    script(f"{begin} to=functions.now<|channel|>commentary json<|message|>{{}}<|call|><|im_end|>")
    reply = ask(ai, tools=[NOW], stream=stream, max_tokens=120)
    if stream:
        deltas = [chunk.choices[0].delta for chunk in reply]
        calls = [call for delta in deltas for call in delta.tool_calls or ()]
        assert "".join(delta.content or "" for delta in deltas) == ""
        assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == thought
    else:
        message = reply.choices[0].message
        calls = message.tool_calls
        assert (message.content, getattr(message, "reasoning_content", "")) == (None, thought)
    assert calls[0].function.name == "now"
    assert "".join(call.function.arguments for call in calls) == "{}"


@pytest.mark.usefixtures("family")
def test_an_agent_s_loop_replays_what_was_thought_and_finds_it_cached(
    ai: openai.OpenAI, script: Script
) -> None:
    script('<think>\nI look.\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n'
           "</tool_call><|im_end|>")  # fmt: skip
    first = ask(ai, tools=[NOW])
    message = first.choices[0].message.model_dump(exclude_none=True)
    assert message["reasoning_content"] == "I look."
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "7"}
    script("<think>\nSeven.\n</think>\n\nIt is 7.<|im_end|>")
    again = ask(ai, tools=[NOW], messages=[*QUESTION, message, result])
    assert again.choices[0].message.content == "It is 7."
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.prompt_tokens + first.usage.completion_tokens - 3


@pytest.mark.usefixtures("family")
@pytest.mark.parametrize("said", [{"reasoning_budget": 3}, {"reasoning": {"max_tokens": 3}}])
@pytest.mark.parametrize("family", ["Qwen3.5"], indirect=True)
def test_a_budget_ends_the_thought(ai: openai.OpenAI, script: Script, said: dict[str, Any]) -> None:
    script("a b c d e f g")
    message = ask(ai, **said).choices[0].message
    assert message.reasoning_content == "a b c"
    assert message.content


@pytest.mark.usefixtures("family")
@pytest.mark.parametrize(
    "said",
    [
        {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("family", ["Qwen3.5"], indirect=True)
def test_thinking_is_switched_off(ai: openai.OpenAI, script: Script, said: dict[str, Any]) -> None:
    script("Blue.<|im_end|>")
    reply = ask(ai, **said)
    assert reply.choices[0].message.content == "Blue."
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.usefixtures("family")
@pytest.mark.parametrize("family", [*THOUGHTS], indirect=True)
def test_a_budget_of_nothing_answers_at_once_on_every_template(
    ai: openai.OpenAI, script: Script
) -> None:
    script("Blue.<|im_end|>")
    reply = ask(ai, thinking_budget_tokens=0)
    assert reply.choices[0].message.content == "Blue."
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.usefixtures("family")
@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"reasoning_effort": "low"}, "reads no reasoning_effort; use enable_thinking"),
        ({"enable_thinking": False, "think": True}, "`enable_thinking` and `think` say two things"),
        ({"thinking": {"type": "maybe"}}, "says nothing of thinking that is known here"),
        ({"reasoning": {"max_tokens": "4"}}, "says nothing of thinking that is known here"),
        ({"think": 3}, "think is 3, which says nothing"),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}},
         "chat_template_kwargs says enable_thinking: False, and"),
        ({"reasoning_format": "none"}, "reasoning_format is not served: thoughts come apart"),
        ({"thinking_budget_tokens": -2}, "thinking_budget_tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_switched_is_said(
    ai: openai.OpenAI, said: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=sentence):
        ask(ai, **said)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"reasoning_effort": "low"}, "reads no reasoning_effort, and it does not think; leave"),
        ({"enable_thinking": True}, "does not think, as far as its chat template tells; leave"),
    ],
)
def test_a_model_that_does_not_think_is_not_asked_to(
    ai: openai.OpenAI, said: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=sentence):
        ask(ai, **said)
    nothing = {"enable_thinking": False, "reasoning_effort": "none", "thinking_budget_tokens": 9}
    assert ask(ai, **nothing, max_tokens=4).choices[0].message.content


@pytest.mark.parametrize("name", ["reasoning_effort", "thinking_budget", "think", "reasoning"])
def test_plain_text_is_asked_for_no_thoughts(client: Client, name: str) -> None:
    response = client.complete(prompt="Rain", **{name: 5}, max_tokens=1)
    assert response.status_code == 400
    assert "is not served: it belongs to /v1/chat/completions" in response.text


OFF, THREE = AskedThinking(enabled=False), AskedThinking(budget=3)


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ({}, AskedThinking()),
        ({"enable_thinking": False}, OFF), ({"think": False}, OFF), ({"thinking": False}, OFF),
        ({"thinking": {"type": "disabled"}}, OFF), ({"reasoning": {"enabled": False}}, OFF),
        ({"think": "high"}, AskedThinking(effort="high")),
        ({"reasoning": {"effort": "high"}}, AskedThinking(effort="high")),
        ({"reasoning_effort": "high", "think": "high"}, AskedThinking(effort="high")),
        ({"thinking_budget_tokens": 3}, THREE), ({"reasoning_budget": 3}, THREE),
        ({"thinking_budget": 3}, THREE), ({"reasoning_budget_tokens": 3}, THREE),
        ({"thinking_token_budget": 3}, THREE), ({"reasoning": {"max_tokens": 3}}, THREE),
        ({"thinking": {"type": "enabled", "budget_tokens": 3}}, AskedThinking(True, budget=3)),
        ({"thinking_budget_tokens": -1, "thinking": {"type": "adaptive"}}, AskedThinking()),
        ({"enable_thinking": True, "think": True}, AskedThinking(True)),
        ({"include_reasoning": False}, AskedThinking(told=False)),
        ({"reasoning": {"exclude": True}}, AskedThinking(told=False)),
    ],
)  # fmt: skip
def test_every_server_s_words_are_read(said: dict[str, Any], asked: AskedThinking) -> None:
    assert asked_thinking(ChatBody(model="x", messages=QUESTION, **said)) == asked


def test_what_says_nothing_of_thinking_is_refused() -> None:
    with pytest.raises(Refused, match="reasoning is 'high', which says nothing of thinking"):
        asked_thinking(ChatBody(model="x", messages=QUESTION, reasoning="high"))
