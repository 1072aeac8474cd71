"""The Responses API, as the real OpenAI client speaks it."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.helpers.serving import PIRATE, Client, served, told
from tests.helpers.thinking import scripted, template

RAIN = "What is rain?"
SHORT: dict[str, Any] = {
    "model": PIRATE, "input": RAIN, "max_output_tokens": 16, "temperature": 0,
}  # fmt: skip
WEATHER: Any = {
    "type": "function", "name": "get_weather", "description": "The weather in a place.",
    "strict": True,
    "parameters": {
        "type": "object", "properties": {"place": {"enum": ["Rome", "Oslo"]}},
        "required": ["place"], "additionalProperties": False,
    },
}  # fmt: skip


class Weather(BaseModel):
    wet: bool
    kind: Literal["drizzle", "storm"]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served() as client:
        yield client


@pytest.fixture
def ai(client: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{client.root}/v1", api_key="x", max_retries=0) as ai:
        yield ai


def ask(ai: Any, **said: Any) -> Any:
    return ai.responses.create(**{**SHORT, **said})


def test_a_response_says_what_a_chat_does(ai: openai.OpenAI, client: Client) -> None:
    said = client.chat(model=PIRATE, max_tokens=16).json()
    response = ask(ai)
    assert response.output_text == said["choices"][0]["message"]["content"]
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.input_tokens == said["usage"]["prompt_tokens"]
    assert response.usage.output_tokens == 16
    assert response.usage.total_tokens == said["usage"]["total_tokens"]
    assert response.model_extra["steering"]["mix"] == "pirate"


def test_events_build_the_same_response(ai: openai.OpenAI) -> None:
    whole = ask(ai)
    events = list(ask(ai, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:] == [
        "output_text.done", "content_part.done", "output_item.done", "incomplete"
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events[4:-4]) == events[-4].text == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage.total_tokens == whole.usage.total_tokens


def test_instructions_and_items_are_the_messages_of_a_chat(
    ai: openai.OpenAI, client: Client
) -> None:
    earlier = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Ahoy."},
        {"role": "user", "content": RAIN},
    ]
    system = {"role": "system", "content": "Be brief."}
    said = client.chat(model=PIRATE, max_tokens=16, messages=[system, *earlier]).json()
    items: Any = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]},
        {
            "type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
            "content": [{"type": "output_text", "text": "Ahoy.", "annotations": []}],
        },
        {"role": "user", "content": RAIN},
    ]  # fmt: skip
    response = ask(ai, instructions="Be brief.", input=items)
    assert response.output_text == said["choices"][0]["message"]["content"]
    assert response.usage.input_tokens == said["usage"]["prompt_tokens"]


def test_a_schema_holds_a_response(ai: openai.OpenAI) -> None:
    parsed = ai.responses.parse(model=PIRATE, input=RAIN, text_format=Weather, max_output_tokens=60)
    assert isinstance(parsed.output_parsed, Weather)
    some = ask(ai, text={"format": {"type": "json_object"}}, max_output_tokens=80).output_text
    assert some.startswith("{")


def test_tools_are_called_and_answered(ai: openai.OpenAI) -> None:
    more: dict[str, Any] = {
        "tools": [WEATHER], "tool_choice": "required", "max_output_tokens": 60,
        "parallel_tool_calls": False,
    }  # fmt: skip
    first = ask(ai, **more)
    (call,) = first.output
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    assert json.loads(call.arguments)["place"] in ("Rome", "Oslo")
    *events, last = ask(ai, stream=True, **more)
    (streamed,) = last.response.output
    assert streamed.name == call.name
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == streamed.arguments
    assert json.loads(streamed.arguments)["place"] in ("Rome", "Oslo")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    after = ask(ai, input=[{"role": "user", "content": RAIN}, call, result], tools=[WEATHER])
    assert after.usage.input_tokens > first.usage.input_tokens
    chosen = ask(ai, **{**more, "tool_choice": {"type": "function", "name": "get_weather"}})
    assert chosen.output[0].name == "get_weather"


def test_thoughts_are_an_item_before_the_message(
    ai: openai.OpenAI, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = client.session
    monkeypatch.setattr(session, "template", template("Qwen3", session.model))
    script = scripted(session.model, monkeypatch)
    script("<think>\nHm, so.\n</think>\n\nBlue.<|im_end|>")
    whole = ask(ai, max_output_tokens=60, reasoning={"summary": "auto"})
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert whole.output[0].content[0].text == "Hm, so."
    assert (whole.output_text, whole.status) == ("Blue.", "completed")
    assert whole.usage.output_tokens_details.reasoning_tokens
    script("<think>\nHm, so.\n</think>\n\nBlue.<|im_end|>")
    *events, last = ask(ai, stream=True, max_output_tokens=60)
    thought = [e.delta for e in events if e.type == "response.reasoning_text.delta"]
    assert "".join(thought).strip() == "Hm, so."
    assert [item.type for item in last.response.output] == ["reasoning", "message"]
    assert last.response.output_text == "Blue."
    again = ask(ai, input=[{"role": "user", "content": RAIN}, *whole.output,
                           {"role": "user", "content": "Why?"}])  # fmt: skip
    assert again.output


def test_probabilities_are_told_where_they_are_included(ai: openai.OpenAI) -> None:
    more: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = ask(ai, **more).output[0].content[0].logprobs
    assert len(whole) == 16
    assert len(whole[0].top_logprobs) == 2
    events = ask(ai, stream=True, **more)
    deltas = [e.logprobs for e in events if e.type == "response.output_text.delta"]
    assert [one.token for told in deltas for one in told] == [one.token for one in whole]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"previous_response_id": "resp_1"}, "this server keeps no responses; send the whole"),
        ({"background": True}, "background is not served"),
        ({"truncation": "auto"}, "send a shorter input"),
        ({"tools": [{"type": "web_search"}]}, "tool 0 is of type 'web_search'"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice is of type 'web_search'"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "item 0 of input is of type"),
        ({"input": [{"type": "function_call", "call_id": "x"}]}, "a call without a name"),
        ({"input": []}, "input: List should have at least 1 item"),
        ({"max_output_tokens": 0}, "max_output_tokens: Input should be greater"),
        ({"text": {"verbosity": "low"}}, "verbosity is not served"),
        ({"text": {"format": {"type": "yaml"}}}, "response_format.type: Input should be"),
        ({"messages": [{"role": "user", "content": "x"}]}, "`messages` is not read here; say it"),
        ({"text": {"messages": []}, "messages": [1]}, "`messages` is not read here; say it in"),
        ({"text": {"messages": [1]}}, "`text.messages` is not read here; say it in `input`."),
        ({"text": {"model": "zz"}}, "`text.model` is not read here; say it in `model`."),
        ({"text": {"stream": True}}, "`text.stream` is not read here; say it in `stream`."),
        ({"text": {"temperature": 1}}, "`text.temperature` is not read here; say it in"),
        ({"response_format": {"type": "json_object"}}, "say it in `text.format`."),
        ({"logprobs": True}, "`logprobs` is not read here; say it in `include`."),
        ({"input": [{"type": "reasoning", "content": 5}]}, "the content of item 0 of input, a"),
        ({"input": [{"type": "reasoning", "summary": True}]}, "the summary of item 0 of input, a"),
        ({"input": [{"type": "reasoning", "content": ["deep thought"]}]}, "['deep thought']; send"),
        ({"input": [{"type": "reasoning", "content": [{"text": 5}]}]}, "[{'text': 5}]; send a"),
        ({"input": [{"type": "reasoning", "content": "deep"}]}, "is 'deep'; send a list of"),
        ({"n": 2}, "n is not served here"),
        ({"warmth": 1}, "there is no field `warmth`"),
        ({"model": "gpt-4"}, "there is no model `gpt-4`"),
    ],
)
def test_what_cannot_be_obeyed_is_one_sentence(
    client: Client, body: dict[str, Any], sentence: str
) -> None:
    response = client.post("/v1/responses", json={**SHORT, **body})
    assert response.status_code in (400, 404)
    assert sentence in told(response)


def test_an_error_within_a_stream_is_its_last_event(
    client: Client, ai: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerplug.engine.engine import Piece
    from steerplug.errors import SteerplugError

    async def breaks(*_: Any, **__: Any) -> Any:
        yield Piece("Rain", 1, 0.0)
        raise SteerplugError("the rain is over.")

    monkeypatch.setattr(client.session, "astream_chat", breaks)
    text = client.post("/v1/responses", json={**SHORT, "stream": True}).text
    name, data = text.strip().split("\n\n")[-1].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["message"] == "the rain is over."
    with pytest.raises(openai.APIError, match="the rain is over"):
        list(ask(ai, stream=True))
