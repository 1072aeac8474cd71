"""Tools, tool choices, formats and structured output of the chat model.

What a model calls and says is the real SmolLM2's; what a grammar alone decides, and by which route
steering comes, is seen on a tiny model of random weights.
"""

import asyncio
import json
from collections.abc import Callable, Iterable
from functools import reduce
from operator import add as added
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import ContextOverflowError, ModelInvalidRequestError
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableBinding, RunnableLambda
from pydantic import BaseModel, Field

from steerplug import ChatSteerplug, errors
from steerplug.chat.tool import Tool, ToolCall, Tools
from steerplug.engine.loading import Loading
from steerplug.langchain import messages
from steerplug.langchain.call import Call
from steerplug.langchain.structured import METHODS
from steerplug.library.presets import load_preset
from steerplug.session.shared import session_for
from steerplug.steering.value import Delta, Steering
from tests.helpers.command import plant
from tests.helpers.tiny_models import tiny_model

QUESTION = "What is the weather in Paris?"
SAD: Any = {"configurable": {"steering": "sad"}}

SMALL: dict[str, Any] = {"n_ctx": 2048, "n_threads": 1}

pytestmark = pytest.mark.usefixtures("folder", "sad_of_the_small_model")


@pytest.fixture(scope="module")
def sad_of_the_small_model(folder: Path) -> None:
    """Steering in the place of the preset `sad`."""
    assert folder.is_dir()
    session = session_for(str(tiny_model("llama")), Loading(**SMALL))
    z = np.random.default_rng(0).normal(0, 3, session.model.n_embd).astype(np.float32)
    steering = Steering("sad", len(z), session.model.n_layer, {2: Delta.constant(z)})
    plant(load_preset("sad"), steering, session.engine, session.store)


def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"It rains in {city}."


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=12, description="what it is called")
    country: str = Field(max_length=20)


class CityDict(TypedDict):
    """A city."""

    name: Annotated[Literal["Rome", "Paris"], ..., "what it is called"]
    country: Annotated[Literal["Italy", "France"], ..., "where it is"]


def chat(**fields: Any) -> ChatSteerplug:
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 40, "n_ctx": 1024, "n_threads": 1}
    return ChatSteerplug(**settings | fields)


def small(**fields: Any) -> ChatSteerplug:
    return chat(**{"model": str(tiny_model("llama")), "max_tokens": 100, **SMALL, **fields})


# What is said of tools


SEVEN: Any = 7
JSON = {"type": "json_object"}
ODD = {"title": "Odd", "type": "object", "properties": {"x": {}}}
NO_SCHEMA = {"type": "function", "function": {"name": "odd", "parameters": 5}}


def odd(**said: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "odd", "parameters": {**ODD, **said}}}


def of(schema: Any, method: str) -> Callable[[], Any]:
    return lambda: chat().with_structured_output(schema, method=method).invoke("Hi")


def said(choice: Any, *tools: Any, **kwargs: Any) -> Tools:
    bound = chat().bind_tools(tools, tool_choice=choice, **kwargs)
    return Call.of(chat(), bound.kwargs).settings().tools


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, "auto"), (False, "auto"), ("auto", "auto"), ("none", "none"), ("any", "required"),
        ("required", "required"), (True, "required"), ("add", "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
    ],
)  # fmt: skip
def test_every_documented_choice_is_understood(choice: Any, meant: str) -> None:
    assert said(choice, get_weather, add).choice == meant


def test_tools_keep_name_description_and_schema_in_any_form() -> None:
    (tool,) = said(None, get_weather).tools
    assert tool == Tool(
        "get_weather", "Tell the weather of a city.",
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    )  # fmt: skip
    in_json = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
    forms = said(None, City, CityDict, in_json, City.model_json_schema(mode="serialization") | {
        "title": "Town"}).tools  # fmt: skip
    assert [form.name for form in forms] == ["City", "CityDict", "f", "Town"]
    assert said(None, add, strict=True).tools[0].parameters["additionalProperties"] is False
    assert said(None, add).several
    assert not said(None, add, parallel_tool_calls=False).several
    assert not said("any", add).several
    assert said("any", add, parallel_tool_calls=True).several


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: chat().bind_tools([], tool_choice="any"), "'any', but there are no tools"),
        (lambda: chat().invoke("Hi", tool_choice=True), "True, but there are no tools"),
        (lambda: chat().bind_tools([add], tool_choice="ad"), "tools are add; did you mean `add`?"),
        (lambda: chat().bind_tools([add], tool_choice={"type": "tool"}), "but the tools are add"),
        (lambda: chat().bind_tools([add, add]).invoke("Hi"), "two tools are called `add`"),
        (lambda: chat().bind_tools([SEVEN]), "7 is no tool"),
        (lambda: chat().invoke("Hi", tools=[{"type": "web"}]), "tool 0 is {'type': 'web'}"),
        (lambda: chat().invoke("Hi", tools="add"), "tools is 'add'"),
        (lambda: chat().invoke("Hi", response_format={"type": "xml"}), "of type 'xml'"),
        (lambda: chat().invoke("Hi", response_format={"type": "json_schema"}), "holds no schema"),
        (
            lambda: chat().invoke("Hi", response_format={
                "type": "json_object", "schema": {"type": "string", "pattern": "(?<x"}}),
            "the JSON schema cannot be followed",
        ),
        (lambda: chat().with_structured_output(SEVEN), "7 is no tool"),
        (lambda: chat().with_structured_output(SEVEN, method="json_schema"), "and no schema"),
        (lambda: chat().with_structured_output({"type": "web_search"}), "calls functions only"),
        (lambda: chat().with_structured_output(City, method="jsonschema"), "mean `json_schema`"),
        (lambda: chat().with_structured_output(City, tools=[add]), "says `tools` itself; leave it"),
        (lambda: chat().with_structured_output(City, tool_choice="any"), "says `tool_choice` it"),
        (lambda: chat().with_structured_output(City, method="json_mode", response_format=JSON),
         "says `response_format` itself"),
        (lambda: chat().invoke("Hi", response_format={}), "of type None"),
        (lambda: chat().invoke("Hi", tool_choice="add"), "no tools; give some"),
        (lambda: chat().with_structured_output(None), "schema is None"),
        (lambda: chat().invoke("Hi", tools=[odd(required=5)]), "in the tool 'odd', the JSON sch"),
        (lambda: chat().invoke("Hi", tools=[odd(required=[[1]])]), "cannot be followed"),
        (lambda: chat().bind_tools([NO_SCHEMA]).invoke("Hi"), "the parameters of the tool 'odd' a"),
        *((of(ODD | {"required": 5}, method), "cannot be followed") for method in METHODS),
        *((of(NO_SCHEMA, method), "the parameters of the tool 'odd' are 5") for method in METHODS),
        *((of({"title": "Odd", "type": 5}, method), "JSON Schema") for method in METHODS[:1]),
        *((of({"title": "Odd", "type": 5}, method), "JSON schema") for method in METHODS[1:]),
        (lambda: chat().invoke("Hi", logprobs=False, top_logprobs=2), "but logprobs is False"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_sentence(ask: Any, sentence: str) -> None:
    with pytest.raises(ModelInvalidRequestError) as refusal:
        ask()
    assert isinstance(refusal.value, errors.SteerplugError)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


# Calls


async def test_calls_are_the_same_by_invoke_stream_and_their_async_forms() -> None:
    model = chat().bind_tools([get_weather, add], tool_choice="get_weather")
    whole = AIMessageChunk(content="")
    for chunk in model.stream(QUESTION):
        whole = whole + chunk  # type: ignore[assignment]
    later = AIMessageChunk(content="")
    async for chunk in model.astream(QUESTION):
        later = later + chunk  # type: ignore[assignment]
    for reply in (model.invoke(QUESTION), whole, await model.ainvoke(QUESTION), later):
        assert isinstance(reply, AIMessage)
        (call,) = reply.tool_calls
        assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
        assert call["id"]
        assert reply.content == ""
        assert reply.response_metadata["finish_reason"] == "tool_calls"
        assert reply.usage_metadata is not None


def whole(chunks: Iterable[Any]) -> Any:
    return reduce(added, chunks)


def test_a_call_that_has_no_room_is_refused_whatever_way_it_is_asked_for() -> None:
    model = chat(max_tokens=8)
    calling = model.bind_tools([get_weather], tool_choice="any")
    asks: list[Any] = [
        lambda: calling.invoke(QUESTION),
        lambda: list(calling.stream(QUESTION)),
        lambda: asyncio.run(calling.ainvoke(QUESTION)),
        lambda: model.with_structured_output(City).invoke(QUESTION),
        lambda: model.with_structured_output(CityDict, method="json_schema").invoke(QUESTION),
        lambda: list(model.with_structured_output(CityDict, method="json_mode").stream(QUESTION)),
    ]
    for ask in asks:
        with pytest.raises(ModelInvalidRequestError, match=r"max_tokens is 8, .* with \d+; raise"):
            ask()
    empty = model.get_num_tokens_from_messages([HumanMessage("rain ")], [get_weather])
    full = [HumanMessage("rain " * (1024 - empty - 15))]
    with pytest.raises(ContextOverflowError, match=r"leaves room for 16, but what is"):
        calling.invoke(full, max_tokens=40)


def test_calls_cut_short_say_so_and_half_calls_are_none() -> None:
    history: list[BaseMessage] = []
    for city in ("Rome", "Lima"):  # so that a small model goes on in this way
        call = {"name": "get_weather", "args": {"city": city}, "id": city}
        history += [
            HumanMessage(f"How is the weather in {city}?"), AIMessage("", tool_calls=[call]),
            ToolMessage("Sunny.", tool_call_id=city), AIMessage(f"It is sunny in {city}."),
        ]  # fmt: skip
    history.append(HumanMessage("How is the weather in Oslo?"))
    model = chat().bind_tools([get_weather])
    for n, reason, n_calls in ((20, "length", 0), (30, "length", 1), (40, "tool_calls", 1)):
        for reply in (
            model.invoke(history, max_tokens=n), whole(model.stream(history, max_tokens=n))
        ):  # fmt: skip
            assert reply.response_metadata["finish_reason"] == reason
            assert len(reply.tool_calls) == n_calls
            assert reply.invalid_tool_calls == []
            assert all(set(call["args"]) == {"city"} for call in reply.tool_calls)


def test_a_call_whose_arguments_nest_endlessly_is_a_broken_one() -> None:
    calls, (broken,) = messages._to_calls([ToolCall("1", "f", '{"a": ' + "[" * 3000)])
    assert not calls
    assert broken["name"] == "f"


def test_a_choice_of_none_calls_nothing_and_results_are_read() -> None:
    model = chat().bind_tools([get_weather])
    call = {"name": "get_weather", "args": {"city": "Paris"}, "id": "1"}
    history = [HumanMessage(QUESTION), AIMessage("", tool_calls=[call]),
               ToolMessage("It rains in Paris.", tool_call_id="1")]  # fmt: skip
    reply = model.invoke(history, tool_choice="none")
    assert not reply.tool_calls
    assert "rain" in reply.text


def test_tokens_of_tools_are_counted_as_the_model_reads_them() -> None:
    model = chat()
    messages: list[BaseMessage] = [HumanMessage(QUESTION)]
    bare = model.get_num_tokens_from_messages(messages)
    told = model.get_num_tokens_from_messages(messages, [get_weather])
    usage = model.bind_tools([get_weather], tool_choice="any").invoke(messages).usage_metadata
    assert usage is not None
    assert usage["input_tokens"] == told > bare


def test_the_profile_says_what_the_model_can() -> None:
    profile = chat(n_ctx=512).profile
    assert profile is not None
    assert profile["max_input_tokens"] == 512
    assert all(profile[what] for what in ("tool_calling", "tool_choice", "structured_output"))
    assert not profile["image_inputs"]


# Structured output


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
@pytest.mark.parametrize("schema", [City, CityDict, City.model_json_schema()])
def test_structured_output_follows_the_schema(method: str, schema: Any) -> None:
    chain = small().with_structured_output(schema, method=method, include_raw=True)
    result = chain.invoke("Name a city.")
    assert result["parsing_error"] is None
    parsed = result["parsed"]
    assert isinstance(parsed, City if schema is City else dict)
    fields = dict(parsed)
    assert set(fields) == {"name", "country"}
    if schema is not CityDict:
        assert len(fields["country"]) <= 20
    raw = result["raw"]
    said = raw.tool_calls[0]["args"] if method == "function_calling" else json.loads(raw.text)
    assert said == fields


NUMBER = {"type": "integer", "minimum": 1, "maximum": 9}


def test_a_schema_without_properties_is_followed_by_calls_too() -> None:
    schema = {
        "title": "Ages", "type": "object", "additionalProperties": NUMBER, "minProperties": 1
    }  # fmt: skip
    ages = small().with_structured_output(schema).invoke("How old?")
    assert ages
    assert all(1 <= age <= 9 for age in ages.values())


@pytest.mark.parametrize("schema", [{"type": "array", "items": NUMBER}, {"enum": ["a", "b"]}])
def test_a_schema_of_no_object_is_no_call(schema: dict[str, Any]) -> None:
    model, schema = small(), {"title": "Answer", **schema}
    with pytest.raises(errors.RequestError):
        model.with_structured_output(schema).invoke("Which?")
    assert model.with_structured_output(schema, method="json_schema").invoke("Which?")


def test_a_structured_reply_may_call_tools_instead_if_told_so() -> None:
    def answer(choice: str) -> Any:
        return chat().with_structured_output(
            City, method="json_schema", tools=[get_weather], tool_choice=choice, include_raw=True
        ).invoke("Name a city.")

    called = answer("any")
    assert called["raw"].tool_calls[0]["name"] == "get_weather"
    assert (called["parsed"], called["parsing_error"]) == (None, None)
    assert isinstance(answer("none")["parsed"], City)


def test_json_mode_needs_no_schema() -> None:
    assert isinstance(chat().with_structured_output(method="json_mode").invoke("Hi"), dict)


def test_structured_output_streams_as_it_grows() -> None:
    for method in ("function_calling", "json_schema"):
        chain = chat().with_structured_output(CityDict, method=method)
        parts = list(chain.stream("Name a city."))
        assert len(parts) > 3
        assert set(parts[-1]) == {"name", "country"}


def test_tools_and_a_format_leave_both_possible() -> None:
    schema = {**City.model_json_schema(), "additionalProperties": False}
    json_city = {"type": "json_schema", "json_schema": {"schema": schema}}
    model = chat().bind_tools([get_weather], response_format=json_city)
    assert set(json.loads(model.invoke("Hi", tool_choice="none").text)) == {"name", "country"}
    assert model.invoke(QUESTION, tool_choice="any").tool_calls


# Steering, bound before or after


def steered(reply: AIMessage) -> list[str]:
    return [one["name"] for one in reply.response_metadata["steering"]["steering"]]


def raw(model: Any, **kwargs: Any) -> Any:
    chain = model.with_structured_output(City, include_raw=True, method="json_schema", **kwargs)
    return chain | RunnableLambda(lambda result: result["raw"])


def brief(**fields: Any) -> ChatSteerplug:
    return small(**{"max_tokens": 4, **fields})


ROUTES: dict[str, Any] = {
    "bind_tools, argument": lambda: brief().bind_tools([add]).invoke("Hi", steering="sad"),
    "bind_tools, config": lambda: brief().bind_tools([add]).invoke("Hi", SAD),
    "bind_tools, with_config": lambda: brief().bind_tools([add]).with_config(SAD).invoke("Hi"),
    "bind_tools, bind": lambda: brief().bind_tools([add]).bind(steering="sad").invoke("Hi"),
    "bind_tools, with_steering": lambda: brief().bind_tools([add]).with_steering(
        "sad").invoke("Hi"),
    "bind, bind_tools": lambda: brief().bind(steering="sad").bind_tools([add]).invoke("Hi"),
    "with_config, bind_tools": lambda: brief().with_config(SAD).bind_tools([add]).invoke("Hi"),
    "with_steering, bind_tools": lambda: brief().with_steering("sad").bind_tools(
        [add]).invoke("Hi"),
    "bind_tools, batch": lambda: brief().bind_tools([add]).batch(["Hi", "Hi"], [{}, SAD])[1],
    "structured, config": lambda: raw(small()).invoke("Hi", SAD),
    "structured, with_config": lambda: raw(small()).with_config(SAD).invoke("Hi"),
    "bind, structured": lambda: raw(small().bind(steering="sad")).invoke("Hi"),
    "with_config, structured": lambda: raw(small().with_config(SAD)).invoke("Hi"),
    "structured, argument": lambda: raw(small(), steering="sad").invoke("Hi"),
    "structured, argument of the call": lambda: raw(small()).invoke("Hi", steering="sad"),
    "bind_tools, fallback": lambda: brief(model="nowhere").bind_tools([add]).with_fallbacks(
        [brief().bind_tools([add])]).invoke("Hi", SAD),
    "fallback, bind_tools": lambda: brief(model="nowhere").with_fallbacks([brief()]).bind_tools(
        [add]).invoke("Hi", SAD),
    "bind_tools, retry": lambda: brief().bind_tools([add]).with_retry().invoke("Hi", SAD),
    "bind_tools, async": lambda: asyncio.run(brief().bind_tools([add]).ainvoke("Hi", SAD)),
}  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
def test_steering_survives(route: str) -> None:
    reply = ROUTES[route]()
    assert steered(reply) == ["sad"]
    assert reply.response_metadata["steering"]["tokens_steered"] > 0


def test_bindings_stay_bindings_and_keep_their_tools() -> None:
    bound = chat().bind(steering="sad").bind_tools([add], tool_choice="any")
    assert isinstance(bound, RunnableBinding)
    reply = bound.with_steering("none").invoke("What is 1 + 2?")
    assert reply.tool_calls
    assert steered(reply) == []
    chain = chat().bind(stop=["never"]) | StrOutputParser()
    assert chain.invoke("Hi")


# LangChain's cache, limiter and log-probabilities


def test_whatever_is_said_of_tools_format_and_phases_changes_the_key() -> None:
    bind = chat().bind_tools
    json_object = {"type": "json_object"}
    said: list[Any] = [
        {}, bind([add]).kwargs, bind([add, get_weather]).kwargs,
        bind([add], tool_choice="any").kwargs, bind([add], tool_choice="none").kwargs,
        bind([add], parallel_tool_calls=False).kwargs, {"response_format": json_object},
        {"response_format": {**json_object, "schema": City.model_json_schema()}},
        {"unsteered": ["thinking"]}, {"unsteered": ["constrained"]}, {"logprobs": True},
        {"top_logprobs": 3}, {"logit_bias": {1: 1.0}}, {"logit_bias": {1: 2.0}},
    ]  # fmt: skip
    keys = [chat()._get_llm_string(**one) for one in said]
    assert len(set(keys)) == len(keys)
    both = [chat()._get_llm_string(unsteered=list(x)) for x in (
        ("thinking", "constrained"), ("constrained", "thinking"))]  # fmt: skip
    assert both[0] == both[1]
    alike = [chat()._get_llm_string(**bind([add], tool_choice=c).kwargs) for c in ("any", True)]
    assert alike[0] == alike[1]


def test_a_cached_reply_keeps_its_calls_and_no_other_call_hits_it() -> None:
    model = chat(cache=InMemoryCache())
    calling = model.bind_tools([add], tool_choice="any")
    first, again = calling.invoke("What is 1 + 2?"), calling.invoke("What is 1 + 2?")
    assert first.tool_calls == again.tool_calls
    assert model.invoke("What is 1 + 2?").tool_calls == []
    structured = model.with_structured_output(City)
    assert structured.invoke("What is 1 + 2?") == structured.invoke("What is 1 + 2?")


def test_the_rate_limiter_is_asked() -> None:
    limiter = InMemoryRateLimiter(requests_per_second=1000, max_bucket_size=1)
    asked: list[bool] = []

    def acquire(*, blocking: bool = True) -> bool:
        asked.append(blocking)
        return True

    limiter.acquire = acquire  # type: ignore[method-assign]
    model = chat(rate_limiter=limiter, max_tokens=2)
    model.invoke("Hi")
    list(model.stream("Hi"))
    model.batch(["Hi", "Ho"])
    assert asked == [True] * 4


def test_log_probabilities_are_told_of_every_token_whole_and_streamed() -> None:
    model = chat(max_tokens=4, top_logprobs=2)
    whole = model.invoke(QUESTION)
    streamed = AIMessageChunk(content="")
    for chunk in model.stream(QUESTION):
        streamed = streamed + chunk
    told = whole.response_metadata["logprobs"]["content"]
    again = streamed.response_metadata["logprobs"]["content"]
    assert [one["token"] for one in again] == [one["token"] for one in told]
    assert "".join(one["token"] for one in told) == whole.text
    assert len(told) == 4
    for one in told:
        assert one["logprob"] <= 0
        assert one["top_logprobs"][0]["token"] == one["token"]  # greedy
        assert len(one["top_logprobs"]) == 2
    assert "logprobs" not in chat(max_tokens=4).invoke(QUESTION).response_metadata


def test_a_logit_bias_forbids_a_token() -> None:
    model = chat(max_tokens=1, top_logprobs=1)
    first = model.invoke(QUESTION).text
    (token,) = model.get_token_ids(first)
    assert model.invoke(QUESTION, logit_bias={token: -100}).text != first


def test_a_batch_of_sixteen_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = session_for(str(tiny_model("llama")), Loading(**SMALL)).engine
    running: list[int] = []
    decode = type(engine.context).decode

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        running.append(engine.metrics().n_running)
        return decode(self, *args, **kwargs)

    monkeypatch.setattr(type(engine.context), "decode", counting)
    replies = small(max_tokens=60).batch([f"What is {n}?" for n in range(16)])
    assert len(replies) == 16
    assert max(running) > 12
    running.clear()
    small(max_tokens=4).batch(["Hi"] * 4, {"max_concurrency": 1})
    assert max(running) == 1
