"""Messages and tools as the values that a chat template is given.

Templates differ in the form in which they read the same chat: content as text or as a list of
parts, arguments of calls as a mapping or as JSON text. `Forms` says which is wanted; see `reading`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerplug.chat.calls.plain import Message
from steerplug.chat.tool import Tool, ToolCall

THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""What templates and clients call the thoughts of a message."""


@dataclass(frozen=True)
class Forms:
    """The forms in which a template reads a chat; as they are here, those that transformers gives.

    Args:
        parts: the roles whose content is a list of parts.
        arguments: what the arguments of a call are.
        no_content: what stands as content in a turn of calls alone: text of no length, none,
            nothing at all, or parts.
        tools: whether a tool is in an object that says it is a function, or the function alone.
        no_tools: what a chat without tools has as tools.
        thoughts: what the thoughts of a turn are: fields of the message, or a part of its content.
    """

    parts: frozenset[str] = frozenset()
    arguments: Literal["mapping", "text"] = "mapping"
    no_content: Literal["text", "none", "absent", "parts"] = "text"
    tools: Literal["wrapped", "bare"] = "wrapped"
    no_tools: Literal["none", "list"] = "none"
    thoughts: Literal["fields", "parts"] = "fields"


def message_value(message: Message, forms: Forms) -> dict[str, Any]:
    """Return a message as the template reads it, its calls in OpenAI's shape."""
    value = {key: part for key, part in message.items() if key not in ("content", "tool_calls")}
    if calls := message.get("tool_calls"):
        value["tool_calls"] = [_call_value(call, forms) for call in calls]
    return value | _content(message, forms) | _reasoning(message)


def _content(message: Message, forms: Forms) -> dict[str, Any]:
    text = message.get("content") or ""
    if forms.thoughts == "parts" and (thoughts := thoughts_of(message)):
        said = [{"type": "text", "text": text}] if text else []
        return {"content": [{"type": "thinking", "thinking": thoughts}, *said]}
    form = forms.no_content if message.get("tool_calls") and not text else "text"
    if form == "parts" or (form == "text" and message["role"] in forms.parts):
        return {"content": [{"type": "text", "text": text}]}
    if form == "absent":
        return {}
    return {"content": text if form == "text" else None}


def _call_value(call: ToolCall, forms: Forms) -> dict[str, Any]:
    arguments = call.arguments if forms.arguments == "text" else _mapping(call.arguments)
    return {
        "id": call.id, "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }  # fmt: skip


def _mapping(arguments: str) -> Any:
    """Return the arguments of a call as a mapping, or the text that they are."""
    try:
        mapping = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return mapping if isinstance(mapping, dict) else arguments


def thoughts_of(message: Message) -> str:
    """Return the thoughts that a message carries, by whatever name."""
    return next((str(message[name]) for name in THOUGHTS if message.get(name)), "")


def _reasoning(message: Message) -> dict[str, Any]:
    """Return the thoughts that a message carries, under the names that templates know."""
    thoughts = [message[name] for name in THOUGHTS if message.get(name) is not None]
    if not thoughts:
        return {}
    return {name: message.get(name, thoughts[0]) for name in THOUGHTS}


def tool_values(tools: Sequence[Tool], forms: Forms) -> list[dict[str, Any]] | None:
    """Return the tools of a chat as the template reads them."""
    if not tools and forms.no_tools == "none":
        return None
    functions = [
        {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
        for tool in tools
    ]
    if forms.tools == "bare":
        return functions
    return [{"type": "function", "function": function} for function in functions]
