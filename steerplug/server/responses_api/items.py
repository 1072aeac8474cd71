"""What a response consists of: the items of its output, and what is said around them."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from steerplug.chat.tool import ToolCall
from steerplug.server.responses import usage
from steerplug.server.responses_api.requests import ResponsesBody
from steerplug.session.receipt import Reply

Item = dict[str, Any]

_DONE, _GOING_ON, _CUT = "completed", "in_progress", "incomplete"
_TOKENS = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}


def new_id(prefix: str) -> str:
    """Return an id that nothing else has."""
    return f"{prefix}_{uuid.uuid4().hex}"


def opening(body: ResponsesBody) -> Item:
    """Return a response of which nothing is said yet."""
    more = body.model_extra or {}
    return {
        "id": new_id("resp"), "object": "response", "created_at": int(time.time()),
        "status": _GOING_ON, "error": None, "incomplete_details": None, "output": [],
        "model": body.model, "instructions": body.instructions,
        "max_output_tokens": more.get("max_output_tokens"),
        "temperature": more.get("temperature"), "top_p": more.get("top_p"),
        "tools": body.tools or [], "tool_choice": body.tool_choice or "auto",
        "parallel_tool_calls": more.get("parallel_tool_calls") is not False,
        "text": {"format": {"type": "text"}, **(body.text or {})},
        "reasoning": more.get("reasoning"), "metadata": more.get("metadata") or {},
        "previous_response_id": None, "store": False, "truncation": "disabled",
        "background": False, "usage": None,
    }  # fmt: skip


def ending(reply: Reply, output: list[Item], steering: dict[str, Any]) -> Item:
    """Return what is new of a response when its reply is finished."""
    is_cut = reply.finish_reason == "length"
    if is_cut and output:
        output[-1]["status"] = _CUT
    counted = {_TOKENS.get(name, name): n for name, n in usage([reply]).items()}
    for name in _TOKENS:
        details = counted.pop(f"{name}_details")
        counted[f"{_TOKENS[name]}_details"] = details
    return {
        "status": _CUT if is_cut else _DONE,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "completed_at": int(time.time()),
        "output": output, "usage": counted, "steering": steering,
    }  # fmt: skip


def thought(text: str | None = None) -> Item:
    """Return what was thought, or the beginning of it."""
    parts = [] if text is None else [thought_part(text)]
    return {"type": "reasoning", "id": new_id("rs"), "summary": [], "content": parts,
            "status": _GOING_ON if text is None else _DONE}  # fmt: skip


def thought_part(text: str) -> Item:
    """Return the text of a thought."""
    return {"type": "reasoning_text", "text": text}


def message(text: str | None = None, logprobs: Sequence[Item] = ()) -> Item:
    """Return the assistant's message, or the beginning of it."""
    parts = [] if text is None else [text_part(text, logprobs)]
    return {"type": "message", "id": new_id("msg"), "role": "assistant", "content": parts,
            "status": _GOING_ON if text is None else _DONE}  # fmt: skip


def text_part(text: str, logprobs: Sequence[Item] = ()) -> Item:
    """Return the text of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def call(call: ToolCall) -> Item:
    """Return a call, or the beginning of one whose arguments are empty."""
    status = _DONE if call.arguments else _GOING_ON
    return {"type": "function_call", "id": new_id("fc"), "call_id": call.id, "name": call.name,
            "arguments": call.arguments, "status": status}  # fmt: skip


def output(reply: Reply, logprobs: Sequence[Item]) -> list[Item]:
    """Return all items of a reply."""
    thoughts = [thought(reply.reasoning)] if reply.reasoning else []
    said = [message(reply.text, logprobs)] if reply.text or not reply.tool_calls else []
    return [*thoughts, *said, *map(call, reply.tool_calls)]
