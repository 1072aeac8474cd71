"""Steering of an agent, chosen anew for each of its model calls.

    SteeringMiddleware(policy, policy, ...)      policy: ModelRequest -> mix, or None for no opinion

The first policy that says something chooses; if none does, config and model choose as ever. Each
choice is recorded in the agent's state, under `steering_steps`.
"""

from collections.abc import Awaitable, Callable, Mapping
from operator import add
from typing import Annotated, Any, NotRequired, TypedDict

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from steerplug.errors import PresetError, RequestError
from steerplug.langchain.errors import langchain_errors
from steerplug.preset.mix import parse_mix

try:
    from langchain.agents.middleware import (
        AgentMiddleware,
        AgentState,
        ExtendedModelResponse,
        ModelRequest,
        ModelResponse,
    )
    from langgraph.types import Command
except ImportError as error:
    raise ImportError(
        "SteeringMiddleware needs LangChain's agents; pip install 'steerplug[agents]'."
    ) from error

Policy = Callable[[ModelRequest[Any]], str | None]
"""What chooses the steering of one model call; None leaves it to the next policy."""


class Chosen(TypedDict):
    """What was chosen for one model call.

    `step` counts the calls since the user last spoke, from 0; `steering` is None where no policy
    said anything.
    """

    step: int
    steering: str | None


class SteeringState(AgentState[Any]):
    """An agent's state, with what was chosen so far, and what `from_state` reads unless told."""

    steering: NotRequired[str | None]
    steering_steps: NotRequired[Annotated[list[Chosen], add]]


class SteeringMiddleware(AgentMiddleware[SteeringState, Any, Any]):
    """Chooses the steering of each model call of an agent, and records it.

    Works with any chat model that takes the call argument `steering`.

    Args:
        policies: asked in this order; the first that says something chooses.

    Raises:
        RequestError: one of them is no policy.

    Example:
        ```python
        agent = create_agent(
            ChatSteerplug(), [search],
            middleware=[SteeringMiddleware(after_tool({"search": "formal"}), by_step("none"))],
        )
        ```
    """

    state_schema = SteeringState

    def __init__(self, *policies: Policy) -> None:
        super().__init__()
        for policy in policies:
            if not callable(policy):
                with langchain_errors():
                    raise RequestError(
                        f"{policy!r:.60} is no policy; give a function of the request, such as "
                        "by_step(...) makes of mixes."
                    )
        self.policies = policies

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ExtendedModelResponse[Any]:
        """Make one model call with the steering that was chosen for it."""
        steering = self._choice(request)
        return _recorded(handler(_steered(request, steering)), request, steering)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ExtendedModelResponse[Any]:
        """Make one model call with the steering that was chosen for it."""
        steering = self._choice(request)
        return _recorded(await handler(_steered(request, steering)), request, steering)

    def _choice(self, request: ModelRequest[Any]) -> str | None:
        choices = (policy(request) for policy in self.policies)
        return next((mix for mix in choices if mix is not None), None)


def by_step(*mixes: str | None) -> Policy:
    """Choose by how many model calls there were since the user last spoke; the last mix stays.

    Raises:
        PresetError: no mix is given, or one cannot be read.
    """
    if not mixes:
        with langchain_errors():
            raise PresetError("by_step is given no mix; give one for the first step at least.")
    _check(mixes)
    return lambda request: mixes[min(_step(request), len(mixes) - 1)]


def after_tool(mixes: Mapping[str, str]) -> Policy:
    """Choose by the tool whose result came last; says nothing where no result came last.

    Raises:
        PresetError: a mix cannot be read.
    """
    _check(mixes.values())

    def choose(request: ModelRequest[Any]) -> str | None:
        last = request.messages[-1] if request.messages else None
        if not isinstance(last, ToolMessage):
            return None
        return mixes.get(last.name or _called(request, last.tool_call_id))

    return choose


def from_state(key: str = "steering") -> Policy:
    """Choose what the agent's state says under `key`; another must be in its state schema."""
    return lambda request: _said(request.state, key)


def from_context(key: str = "steering") -> Policy:
    """Choose what the run's context says under `key`: an attribute or, of a mapping, a key."""
    return lambda request: _said(request.runtime.context, key)


def _said(holder: object, key: str) -> str | None:
    value = holder.get(key) if isinstance(holder, Mapping) else getattr(holder, key, None)
    return None if value is None else str(value)


def _check(mixes: Any) -> None:
    with langchain_errors():
        for mix in mixes:
            if mix is not None:
                parse_mix(mix)


def _step(request: ModelRequest[Any]) -> int:
    step = 0
    for message in reversed(request.messages):
        if isinstance(message, HumanMessage):
            break
        step += isinstance(message, AIMessage)
    return step


def _called(request: ModelRequest[Any], call_id: str) -> str:
    """Return the tool of a call."""
    calls = (call for message in request.messages if isinstance(message, AIMessage)
             for call in message.tool_calls)  # fmt: skip
    return next((call["name"] for call in calls if call["id"] == call_id), "")


def _steered(request: ModelRequest[Any], steering: str | None) -> ModelRequest[Any]:
    if steering is None:
        return request
    return request.override(model_settings={**request.model_settings, "steering": steering})


def _recorded(
    response: ModelResponse[Any], request: ModelRequest[Any], steering: str | None
) -> ExtendedModelResponse[Any]:
    chosen = Chosen(step=_step(request), steering=steering)
    return ExtendedModelResponse(response, Command(update={"steering_steps": [chosen]}))
