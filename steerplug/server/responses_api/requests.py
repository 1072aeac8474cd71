"""Requests of the Responses API, read as chats of `server.requests`.

    instructions              a system message before all others
    input: a text             a message of the user
    items: message            a message
           reasoning          what the assistant thought before what follows
           function_call      a call in the assistant's message
           function_call_output    the result of a tool
    text.format               response_format
    tools, tool_choice        the same without the object `function` around a function

What would need earlier responses to be kept is refused.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from steerplug.server.errors import Refused
from steerplug.server.requests import MAX_MESSAGES, ChatBody, ModelName, Open, read

_LIKELY = "message.output_text.logprobs"
_KEEPS = "this server keeps no responses; send the whole conversation in `input`"
_REFUSED = {
    "previous_response_id": _KEEPS,
    "conversation": _KEEPS,
    "background": f"{_KEEPS}, and wait for the response",
    "prompt": "this server keeps no prompts; send the text in `instructions`",
}
_ORIGINS = {
    "messages": "input", "response_format": "text.format", "logprobs": "include",
}  # fmt: skip
_IGNORED = ("stream_options", "max_tool_calls")
_ITEMS = "message, reasoning, function_call and function_call_output are"


class ResponsesBody(Open):
    """A request for a response; sampling and steering are said as in chats."""

    model: ModelName
    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    stream: bool | None = None
    text: dict[str, Any] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    truncation: str | None = None


def chat_body(body: ResponsesBody) -> ChatBody:
    """Return a request as a chat.

    Raises:
        RequestValidationError, Refused: it cannot be read, or not be obeyed.
    """
    said = dict(body.model_extra or {})
    for name, reason in _REFUSED.items():
        if said.pop(name, None):
            raise Refused(f"{name} is not served: {reason}.", param=name)
    for name in _IGNORED:
        said.pop(name, None)
    if body.truncation not in (None, "disabled"):
        raise Refused("truncation is not served: send a shorter input.", param="truncation")
    text = dict(body.text or {})
    form = text.pop("format", None)
    own = {
        "model": body.model, "stream": body.stream,
        "messages": list(_messages(body)),
        "response_format": _format(form),
        "tools": [_tool(i, tool) for i, tool in enumerate(body.tools or ())] or None,
        "tool_choice": _choice(body.tool_choice),
        "logprobs": _LIKELY in (body.include or ()) or bool(body.top_logprobs),
        "top_logprobs": body.top_logprobs,
    }  # fmt: skip
    return read(ChatBody, own, {"": said, "text.": text}, _ORIGINS)


def _messages(body: ResponsesBody) -> Iterator[dict[str, Any]]:
    if body.instructions:
        yield {"role": "system", "content": body.instructions}
    if isinstance(body.input, str):
        yield {"role": "user", "content": body.input}
        return
    turn: dict[str, Any] = {}  # the assistant's, of which several items are parts
    for i, item in enumerate(body.input):
        kind = item.get("type") or "message"
        if turn and _begins_another(kind, item, turn):
            yield turn
            turn = {}
        if kind == "function_call":
            turn = {"role": "assistant", "content": "", **turn}
            turn["tool_calls"] = [*turn.get("tool_calls", ()), _call(i, item)]
        elif kind == "reasoning":
            turn = {"role": "assistant", "content": "", "reasoning_content": _thoughts(i, item)}
        elif kind == "function_call_output":
            result = {"role": "tool", "tool_call_id": item.get("call_id")}
            yield {**result, "content": item.get("output")}
        elif kind == "message":
            message = {key: value for key, value in item.items() if key != "type"}
            if item.get("role") == "assistant":
                turn |= message
            else:
                yield message
        else:
            raise Refused(
                f"item {i} of input is of type {kind!r:.40}, which is not served; {_ITEMS}.",
                param="input",
            )
    if turn:
        yield turn


def _begins_another(kind: str, item: Mapping[str, Any], turn: Mapping[str, Any]) -> bool:
    """Whether an item is no part of the assistant's turn so far."""
    if kind == "message":
        said = turn.get("content") or turn.get("tool_calls")
        return item.get("role") != "assistant" or bool(said)
    return kind != "function_call"


def _call(i: int, item: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(item.get("name"), str):
        raise Refused(f"item {i} of input is a call without a name; send one.", param="input")
    function = {"name": item["name"], "arguments": item.get("arguments")}
    return {"id": item.get("call_id") or "", "type": "function", "function": function}


def _thoughts(i: int, item: Mapping[str, Any]) -> str:
    """Return the thoughts of an item, or their summary where that is all there is."""
    content, summary = (_texts(i, item, key) for key in ("content", "summary"))
    return "\n".join(content or summary)


def _texts(i: int, item: Mapping[str, Any], key: str) -> list[str]:
    """Return the texts of the parts that an item has under a key."""
    parts = item.get(key) or []
    if not isinstance(parts, list) or not all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts
    ):
        raise Refused(
            f"the {key} of item {i} of input, a reasoning, is {parts!r:.80}; send a list of "
            '{"type": ..., "text": "..."}.',
            param="input",
        )
    return [part["text"] for part in parts]


def _format(form: Any) -> Any:
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        return form
    named = {key: value for key, value in form.items() if key != "type"}
    return {"type": "json_schema", "json_schema": named}


def _tool(i: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise Refused(
            f"tool {i} is of type {tool.get('type')!r:.40}, which is not served; functions are.",
            param="tools",
        )
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _choice(choice: str | Mapping[str, Any] | None) -> Any:
    if not isinstance(choice, Mapping):
        return choice
    if choice.get("type") != "function":
        raise Refused(
            f"tool_choice is of type {choice.get('type')!r:.40}; send auto, none, required, or a "
            "function.",
            param="tool_choice",
        )
    return {"type": "function", "function": {"name": choice.get("name")}}
