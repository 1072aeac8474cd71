"""From a client's request to what a session is asked: messages and settings.

What cannot be obeyed (an image, a penalty that the sampler lacks) is refused, never left out.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from steerplug.chat.messages import to_messages
from steerplug.chat.tool import AUTO, NONE, REQUIRED, Tool, Tools
from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.sampling import Sampling
from steerplug.errors import RequestError
from steerplug.server.body import Body, ChatBody, CompletionBody, ToolChoice
from steerplug.server.config import Limits
from steerplug.server.errors import Refused
from steerplug.session import Settings

_SEEDS = 2**32 - 1
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")
_RESERVED = (AUTO, NONE, REQUIRED)


def chat_messages(body: ChatBody, limits: Limits) -> list[dict[str, Any]]:
    """Return a chat as a session reads it.

    Raises:
        Refused: a message is not text, or the chat is too long.
    """
    said = [message.model_dump(exclude_unset=True) for message in body.messages]
    try:
        messages = to_messages(said)
    except RequestError as error:
        raise Refused(str(error), param="messages") from None
    n_text = sum(len(message["content"]) for message in messages)
    calls = (call for message in messages for call in message.get("tool_calls", ()))
    _check_length(n_text + sum(len(call.arguments) for call in calls), limits)
    return messages


def prompts(body: CompletionBody, limits: Limits) -> list[str]:
    """Return the texts to go on with.

    Raises:
        Refused: one is empty or they are too long, or more is asked for than going on.
    """
    if body.suffix:
        raise Refused("this model cannot write towards a suffix; leave it out.", param="suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise Refused("best_of is not served; ask for n replies instead.", param="best_of")
    if body.echo and body.logprobs is not None:
        raise Refused("a prompt that is echoed has no logprobs; leave one out.", param="echo")
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not all(texts):
        raise Refused("the prompt is empty; send at least one word.", param="prompt")
    _check_length(sum(map(len, texts)), limits)
    return list(texts)


def chat_settings(body: ChatBody, limits: Limits, partition: str) -> list[Settings]:
    """Return how to generate each of the replies to a chat.

    Raises:
        Refused: something cannot be obeyed.
    """
    if body.functions:
        raise Refused("`functions` gave way to `tools`; send tools.", param="functions")
    if body.top_logprobs is not None and not body.logprobs:
        raise Refused("top_logprobs needs logprobs: true.", param="top_logprobs")
    tools = _tools(body)
    schemas = [tool.parameters for tool in tools.tools]
    form = _format(body)
    _check_schemas([*schemas, form] if form else schemas, limits)
    limit = body.max_completion_tokens
    settings = Settings(
        max_tokens=body.max_tokens if limit is None else limit,
        format=form,
        tools=tools,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    return list(_each(body, settings, limits, partition))


def completion_settings(body: CompletionBody, limits: Limits, partition: str) -> list[Settings]:
    """Return how to generate each of the replies to one prompt; errors as `chat_settings`."""
    settings = Settings(max_tokens=body.max_tokens, logprobs=body.logprobs)
    return list(_each(body, settings, limits, partition))


def _each(body: Body, settings: Settings, limits: Limits, partition: str) -> Iterator[Settings]:
    """Yield the settings of each reply; they differ in the seed."""
    for name in ("frequency_penalty", "presence_penalty"):
        if getattr(body, name):
            raise Refused(f"{name} is not served; set it to 0, or use repeat_penalty.", param=name)
    said = {name: getattr(body, name) for name in _SAMPLING}
    sampling = Sampling(
        **{name: value for name, value in said.items() if value is not None},
        logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
    )
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    settings = replace(settings, stop=stop, timeout=limits.timeout, partition=partition)
    for i in range(body.n or 1):
        seed = None if body.seed is None else (body.seed + i) % _SEEDS
        yield replace(settings, sampling=replace(sampling, seed=seed))


def _tools(body: ChatBody) -> Tools:
    tools = tuple(
        Tool(
            tool.function.name,
            tool.function.description or "",
            tool.function.parameters or {"type": "object", "properties": {}},
        )
        for tool in body.tools or ()
    )
    names = [tool.name for tool in tools]
    for name in names:
        if name in _RESERVED or names.count(name) > 1:
            raise Refused(f"the tool name `{name}` is taken; rename the tool.", param="tools")
    choice = body.tool_choice
    if isinstance(choice, ToolChoice):
        if choice.function.name not in names:
            raise Refused(
                f"tool_choice names `{choice.function.name}`, which is no tool of this request.",
                param="tool_choice",
            )
        choice = choice.function.name  # type: ignore[assignment]
    elif choice == REQUIRED and not tools:
        raise Refused("tool_choice is required, and there are no tools.", param="tool_choice")
    parallel = body.parallel_tool_calls is not False
    return Tools(tools, str(choice or AUTO), parallel)


def _format(body: ChatBody) -> dict[str, Any] | None:
    form = body.response_format
    if form is None or form.type == "text":
        return None
    if form.json_schema is not None and form.type == "json_schema":
        return form.json_schema.schema_
    return form.schema_ or dict(ANY_JSON)


def _check_schemas(schemas: Iterable[Any], limits: Limits) -> None:
    size = sum(len(json.dumps(schema)) for schema in schemas)
    if size > limits.schema:
        raise Refused(
            f"the schemas of this request have {size} bytes; the limit is {limits.schema}."
        )


def _check_length(n: int, limits: Limits) -> None:
    if n > limits.prompt:
        raise Refused(
            f"the prompt has {n} characters; the limit is {limits.prompt}. Send a shorter one.",
            code="context_length_exceeded",
        )
