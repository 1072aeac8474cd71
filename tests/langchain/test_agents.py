"""Agents and graphs: steering switches by step and is recorded.

On a tiny model of random weights, whose calls and structured replies grammars alone make; that the
real one calls tools and is steered then is shown in `test_tools`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, AgentState
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from steerplug import ChatSteerplug, errors
from steerplug.engine.loading import Loading
from steerplug.langchain.middleware import (
    SteeringMiddleware,
    after_tool,
    by_step,
    from_context,
    from_state,
)
from steerplug.library.presets import load_preset
from steerplug.session.shared import forget_sessions, session_for
from steerplug.steering.value import Delta, Steering
from tests.helpers.command import plant
from tests.helpers.presets import SAD_PRESET
from tests.helpers.tiny_models import tiny_model

QUESTION = "What is the weather in Paris?"
ASKED: Any = {"messages": [("user", QUESTION)]}
SAD: Any = {"configurable": {"steering": "sad"}}

LOADING: dict[str, Any] = {"n_ctx": 2048, "n_threads": 1}


@pytest.fixture(autouse=True, scope="module")
def sad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's folder with the preset `sad`, and steering in its place."""
    home: Path = tmp_path_factory.mktemp("home")
    (home / "sad.yaml").write_text(SAD_PRESET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERPLUG_PRESETS", str(home))
        patch.setenv("STEERPLUG_CACHE", str(home / "cache"))
        forget_sessions()
        session = session_for(str(tiny_model("llama")), Loading(**LOADING))
        z = np.random.default_rng(0).normal(0, 3, session.model.n_embd).astype(np.float32)
        steering = Steering("sad", len(z), session.model.n_layer, {2: Delta.constant(z)})
        plant(load_preset("sad"), steering, session.engine, session.store)
        yield
        forget_sessions()


def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Tell the weather of a city."""
    return f"It rains in {city}."


class OneCall(AgentMiddleware[Any, Any, Any]):
    """A call at first, then an answer: a model this small cannot be left to choose."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(self._choosing(request))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(self._choosing(request))

    def _choosing(self, request: Any) -> Any:
        answered = isinstance(request.messages[-1], ToolMessage)
        return request.override(tool_choice="none" if answered else "get_weather")


def chat(**fields: Any) -> ChatSteerplug:
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 64, **LOADING}
    return ChatSteerplug(model=str(tiny_model("llama")), **settings | fields)


def agent(*middleware: Any, model: Any = None, **kwargs: Any) -> Any:
    return create_agent(
        model or chat(), [get_weather], middleware=[OneCall(), *middleware], **kwargs
    )


def strengths(state: dict[str, Any]) -> list[float]:
    """The strength of `sad` in each reply; 0 where there was none."""
    replies = [message for message in state["messages"] if isinstance(message, AIMessage)]
    said = [reply.response_metadata["steering"]["steering"] for reply in replies]
    return [one[0]["strength"] if one else 0.0 for one in said]


POLICIES: dict[str, tuple[tuple[Any, ...], list[str | None], list[float]]] = {
    "step": ((by_step("none", "sad"),), ["none", "sad"], [0.0, 1.0]),
    "tool": ((after_tool({"get_weather": "sad"}),), [None, "sad"], [0.0, 1.0]),
    "another tool": ((after_tool({"add": "sad"}),), [None, None], [0.0, 0.0]),
    "first that speaks": (
        (after_tool({"get_weather": "-1*sad"}), by_step("sad")), ["sad", "-1*sad"], [1.0, -1.0]
    ),
    "own": ((lambda request: "sad" if len(request.messages) > 1 else None,),
            [None, "sad"], [0.0, 1.0]),
}  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
def test_steering_follows_the_steps_and_is_recorded(policy: str) -> None:
    policies, chosen, applied = POLICIES[policy]
    state = agent(SteeringMiddleware(*policies)).invoke(ASKED)
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert strengths(state) == applied
    assert state["steering_steps"] == [
        {"step": i, "steering": steering} for i, steering in enumerate(chosen)
    ]


async def test_steering_follows_the_steps_of_an_async_agent_too() -> None:
    state = await agent(SteeringMiddleware(by_step("none", "sad"))).ainvoke(ASKED)
    assert strengths(state) == [0.0, 1.0]
    assert [one["steering"] for one in state["steering_steps"]] == ["none", "sad"]


@dataclass
class Context:
    steering: str


class Mood(AgentState[Any]):
    mood: str


def test_steering_comes_from_the_run_s_context_or_the_state() -> None:
    by_context = agent(SteeringMiddleware(from_context()), context_schema=Context)
    assert strengths(by_context.invoke(ASKED, context=Context("sad"))) == [1.0, 1.0]
    assert strengths(by_context.invoke(ASKED, context={"steering": "-1*sad"})) == [-1.0, -1.0]
    by_state = agent(SteeringMiddleware(from_state("mood")), state_schema=Mood)
    assert strengths(by_state.invoke({**ASKED, "mood": "sad"})) == [1.0, 1.0]
    assert strengths(by_state.invoke(ASKED)) == [0.0, 0.0]
    by_its_own = agent(SteeringMiddleware(from_state()))
    assert strengths(by_its_own.invoke({**ASKED, "steering": "sad"})) == [1.0, 1.0]


def test_a_mix_in_place_of_a_policy_is_refused() -> None:
    with pytest.raises(errors.RequestError, match=r"^'sad' is no policy; give .* by_step"):
        SteeringMiddleware("sad")  # type: ignore[arg-type]


def test_a_policy_beats_the_config_which_beats_the_model() -> None:
    unsure = SteeringMiddleware(after_tool({"get_weather": "none"}))
    sad = agent(unsure, model=chat(steering="-1*sad"))
    assert strengths(sad.invoke(ASKED)) == [-1.0, 0.0]
    assert strengths(sad.invoke(ASKED, SAD)) == [1.0, 0.0]


def test_steps_count_from_the_last_question_of_a_conversation() -> None:
    talk = agent(SteeringMiddleware(by_step("none", "sad")), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    talk.invoke(ASKED, config)
    state = talk.invoke(ASKED, config)
    assert [one["step"] for one in state["steering_steps"]] == [0, 1, 0, 1]
    assert strengths(state) == [0.0, 1.0, 0.0, 1.0]


def test_the_steering_of_one_run_of_a_conversation_does_not_stick_to_the_next() -> None:
    talk = agent(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    talk.invoke(ASKED, {"configurable": {**config["configurable"], **SAD["configurable"]}})
    assert strengths(talk.invoke(ASKED, config)) == [1.0, 1.0, 0.0, 0.0]


def test_a_mix_that_cannot_be_read_is_refused_before_anything_runs() -> None:
    makes: list[Any] = [lambda: by_step("sad sad"), lambda: after_tool({"f": "+"}), by_step]
    for make in makes:
        with pytest.raises(ModelInvalidRequestError):
            make()


MODELS: dict[str, Any] = {
    "with_steering": lambda: (chat().with_steering("sad"), {}),
    "bind": lambda: (chat().bind(steering="sad"), {}),
    "with_config": lambda: (chat().with_config(SAD), {}),
    "field": lambda: (chat(steering="sad"), {}),
    "config": lambda: (chat(), SAD),
}


@pytest.mark.parametrize("way", MODELS)
def test_an_agent_keeps_the_steering_of_its_model(way: str) -> None:
    model, config = MODELS[way]()
    assert strengths(agent(model=model).invoke(ASKED, config)) == [1.0, 1.0]


def test_a_streamed_agent_is_steered_token_by_token() -> None:
    seen = []
    for chunk, _ in agent().stream(ASKED, SAD, stream_mode="messages"):
        if chunk.response_metadata.get("steering"):
            seen.append(chunk.response_metadata["steering"]["steering"][0]["strength"])
    assert seen == [1.0, 1.0]


class Weather(BaseModel):
    """The weather."""

    sky: Literal["blue", "grey"]


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
def test_an_agent_returns_structured_replies(strategy: Any) -> None:
    made = create_agent(chat(), [], response_format=strategy(Weather))
    state = made.invoke(ASKED, SAD)
    assert isinstance(state["structured_response"], Weather)
    assert strengths(state) == [1.0]


# LangGraph without agents


class State(TypedDict):
    replies: list[Any]


def graph(*nodes: Any) -> Any:
    built: Any = StateGraph(State)
    names = [f"node{i}" for i in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        built.add_node(name, node)
    for a, b in zip([START, *names], [*names, END], strict=True):
        built.add_edge(a, b)
    return built.compile()


def said_by(*models: Any) -> Any:
    def node(state: State) -> dict[str, Any]:
        return {"replies": [*state["replies"], *(model.invoke("Hi") for model in models)]}

    return node


def test_the_nodes_of_a_graph_are_steered_by_config_and_by_themselves() -> None:
    app = graph(said_by(chat()), said_by(chat().bind(steering="-1*sad"), chat().with_config(
        configurable={"steering": "none"})))  # fmt: skip
    state = app.invoke({"replies": []}, SAD)
    assert strengths({"messages": state["replies"]}) == [1.0, -1.0, 0.0]
    bare = app.invoke({"replies": []})
    assert strengths({"messages": bare["replies"]}) == [0.0, -1.0, 0.0]
    texts = [reply.text for reply in state["replies"]]
    assert len(set(texts)) == 3


async def test_async_nodes_are_steered_alike() -> None:
    async def node(state: State) -> dict[str, Any]:
        return {"replies": [*state["replies"], await chat().ainvoke([HumanMessage("Hi")])]}

    state = await graph(node).ainvoke({"replies": []}, SAD)
    assert strengths({"messages": state["replies"]}) == [1.0]
