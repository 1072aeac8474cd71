"""Tools for templates that know none: what stands in a system message, and in plain turns.

Calls become the text of the turn that made them, exactly as a model writes them; results become a
user's turn.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain, groupby, repeat
from typing import Any

from steerplug.chat.calls.form import Form, filled
from steerplug.chat.tool import Tool, ToolCall

Message = Mapping[str, Any]
"""`role` and `content`, and what else `ChatTemplate.prompt` knows."""

_SYSTEM = """\
You can call these tools:

{tools}

To call one, write
{example}
with its name and its arguments. To answer without a tool, write plain text."""


def with_tools(messages: Sequence[Message], tools: Sequence[Tool], form: Form) -> list[Message]:
    """Return the messages with the tools told in their system message."""
    lines = "\n".join(
        json.dumps(
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            ensure_ascii=False,
        )
        for tool in tools
    )
    arguments = '{"KEY": "VALUE"}' if form.members else "{...}"
    example = written([ToolCall("ID", "NAME", arguments)], form)
    text = _SYSTEM.format(tools=lines, example=example)
    if messages and messages[0]["role"] == "system":
        content = f"{messages[0]['content']}\n\n{text}".strip()
        return [{**messages[0], "content": content}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def with_calls_as_text(messages: Sequence[Message], form: Form) -> list[Message]:
    """Return the messages with calls as the text of the turns that made them."""
    return [_as_text(message, form) for message in messages]


def _as_text(message: Message, form: Form) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    content = message["content"]
    line_end = "\n" if content and not content.endswith("\n") else ""
    plain = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**plain, "content": f"{content}{line_end}{written(calls, form)}"}


def with_results_as_turns(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with results of tools as turns of the user, successive ones as one."""
    turns: list[Message] = []
    for is_result, group in groupby(messages, lambda message: message["role"] == "tool"):
        if is_result:
            content = "\n".join(_result(message) for message in group)
            turns.append({"role": "user", "content": content})
        else:
            turns += group
    return turns


def _result(message: Message) -> str:
    return f"<tool_response>\n{message['content']}\n</tool_response>"


def written(calls: Sequence[ToolCall], form: Form) -> str:
    """Return calls as a model writes them."""
    begins = chain([form.head], repeat(form.again))
    parts = [
        filled(before + call.name + form.middle, call.id, i)
        + (form.members.written(call.arguments) if form.members else call.arguments)
        + filled(form.tail, call.id, i)
        for i, (before, call) in enumerate(zip(begins, calls, strict=False))
    ]
    return form.opening + "".join(parts) + filled(form.end, "", 0)
