"""Messages of any provider's shape as the one shape that templates are given.

Contract::

    a text                                      one user message
    role developer, human, ai, function         system, user, assistant, tool
    content nothing, or a list of blocks        text; see `content`
    tool_calls, function_call, or call blocks   `ToolCall`s; a result finds its name by their id
    reasoning_content, thinking, reasoning,     `reasoning_content`: what an assistant thought
      or blocks of it
    arguments nothing, or a mapping             JSON text of an object
    arguments that are no JSON object           text of their turn, and their result is said by the
                                                user: what another model broke off stays readable
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from steerplug.chat.content import calls_in, text_of, thoughts_in
from steerplug.chat.encoding import is_object, json_text
from steerplug.chat.tool import ToolCall
from steerplug.chat.values import thoughts_of
from steerplug.errors import RequestError

ChatInput = str | Sequence[Mapping[str, Any]]
"""What a caller may give as a chat."""

_ROLES = {"developer": "system", "human": "user", "ai": "assistant", "function": "tool"}
_READ = ("role", "content", "tool_calls", "invalid_tool_calls", "function_call", "refusal")
_ARGUMENTS = ("arguments", "args", "input")


def to_messages(chat: ChatInput) -> list[dict[str, Any]]:
    """Return a chat as templates are given it; one that is so already stays as it is.

    Raises:
        RequestError: it is no chat, or a message holds more than text and calls.
    """
    if isinstance(chat, str):
        return [{"role": "user", "content": chat}]
    if isinstance(chat, Mapping) or not isinstance(chat, Iterable):
        raise RequestError(
            f"the chat is a {type(chat).__name__}; send a text or a list of messages."
        )
    reading = _Reading()
    for i, message in enumerate(chat):
        reading.add(message, i)
    return reading.finish()


class _Reading:
    """A chat as far as it has been read; `names` holds the tool of each call, by the call's id."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._names: dict[str, str] = {}
        self._broken: set[str] = set()
        self._results: list[str] = []
        self._unanswered: list[ToolCall] = []

    def add(self, message: Mapping[str, Any], i: int) -> None:
        """Read the next message."""
        if not isinstance(message, Mapping):
            raise RequestError(
                f"message {i} is a {type(message).__name__}; send a mapping with role and content."
            )
        role = message.get("role")
        role = _ROLES.get(role, role) if isinstance(role, str) else role
        if "content" not in message and role != "assistant":
            raise RequestError(f"message {i} has no content; send text.")
        text = text_of(message.get("content"), str(role), i)
        others = {k: v for k, v in message.items() if k not in _READ and v is not None}
        plain = {"role": role, "content": text, **others}
        if role == "tool":
            self._add_result(plain)
            return
        self._say_results()
        if role == "assistant":
            plain["content"] = text or str(message.get("refusal") or "")
            if not thoughts_of(plain) and (thoughts := thoughts_in(message.get("content"))):
                plain["reasoning_content"] = thoughts
            self._add_calls(plain, list(_calls(message, i)))
        elif message.get("tool_calls"):
            raise RequestError(
                f"message {i} calls tools as {role}; only the assistant calls tools."
            )
        self._messages.append(plain)

    def finish(self) -> list[dict[str, Any]]:
        """Return all messages; no more will come."""
        self._say_results()
        return self._messages

    def _add_calls(self, message: dict[str, Any], calls: list[ToolCall]) -> None:
        calls = [call if call.id else replace(call, id=self._new_id(n))
                 for n, call in enumerate(calls)]
        self._names |= {call.id: call.name for call in calls}
        self._unanswered = calls
        whole = tuple(call for call in calls if is_object(call.arguments) and call.name)
        if whole:
            message["tool_calls"] = whole
        for call in calls:
            if call not in whole:
                self._broken.add(call.id)
                _append(message, f"Call of {_name(call.name)}:\n{call.arguments}")

    def _new_id(self, n: int) -> str:
        """Return the id of a call that came without one, in the length that Mistral's have."""
        return f"call{len(self._names) + n:05d}"

    def _add_result(self, message: dict[str, Any]) -> None:
        call_id = str(message.get("tool_call_id") or self._asked_by(message.get("name")))
        name = str(message.get("name") or self._names.get(call_id, ""))
        self._unanswered = [call for call in self._unanswered if call.id != call_id]
        if call_id in self._broken:
            self._results.append(f"Result of {_name(name)}:\n{message['content']}")
        else:
            self._messages.append({**message, "tool_call_id": call_id, "name": name})

    def _asked_by(self, name: object) -> str:
        """Return the id of the call that a result without one answers, the first of its tool."""
        return next((call.id for call in self._unanswered if name in (call.name, None, "")), "")

    def _say_results(self) -> None:
        """Say what calls came to that are no calls to a template; the others come before."""
        if self._results:
            self._messages.append({"role": "user", "content": "\n".join(self._results)})
            self._results = []


def _calls(message: Mapping[str, Any], i: int) -> Iterator[ToolCall]:
    """Yield the calls of an assistant's message, each once however often it is told."""
    listed = [*(message.get("tool_calls") or ()), *(message.get("invalid_tool_calls") or ())]
    if not listed and message.get("function_call"):
        listed = [message["function_call"]]
    calls = [_call(call, i) for call in listed]
    yield from calls
    known = {call.id for call in calls}
    for block in calls_in(message.get("content")):
        call = _call(block, i)
        if call.id not in known and (call.id or not calls):
            yield call


def _call(told: object, i: int) -> ToolCall:
    if isinstance(told, ToolCall):
        return replace(told, arguments=_arguments(told.arguments, i))
    if not isinstance(told, Mapping):
        raise RequestError(
            f"message {i} holds {repr(told)[:80]} as a call; send a mapping with id and function."
        )
    function = told.get("function") or told.get("custom") or told
    if not isinstance(function, Mapping):
        raise RequestError(
            f"message {i} holds a call of {repr(function)[:80]}; send a mapping with name and "
            "arguments."
        )
    given = next((function[key] for key in _ARGUMENTS if key in function), None)
    call_id = told.get("call_id") or told.get("id") or ""
    return ToolCall(str(call_id), str(function.get("name") or ""), _arguments(given, i))


def _arguments(given: object, i: int) -> str:
    """Return the arguments of a call as text."""
    if given is None or (isinstance(given, str) and given.strip() in ("", "null")):
        return "{}"
    return given if isinstance(given, str) else json_text(given, f"a call of message {i}")


def _append(message: dict[str, Any], line: str) -> None:
    before = message["content"]
    line_end = "\n" if before and not before.endswith("\n") else ""
    message["content"] = f"{before}{line_end}{line}"


def _name(name: str) -> str:
    return f"`{name}`" if name else "a tool"
