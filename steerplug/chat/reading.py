"""What a chat template reads, and in which form: told by what it shows of planted words.

Templates say nothing when they drop a message or a tool. So a chat with a word in each place is
written once, in one form after another, until the word is there; where it never is, what belongs
there is told in another place, or refused. A form that transformers gives comes first.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal

from steerplug.chat.calls.plain import Message
from steerplug.chat.tool import Tool, ToolCall
from steerplug.chat.values import Forms
from steerplug.errors import RequestError

Write = Callable[[Sequence[Message], Sequence[Tool], Forms], str]
"""A chat as the template itself writes it in given forms, or a refusal."""


@dataclass(frozen=True)
class Reading:
    """What a template reads.

    Args:
        forms: the forms in which it reads it.
        assistant: whether it shows what the assistant said.
        system: whether it shows a system message that comes first.
        system_with_tools: whether it does in a chat with tools.
        later_system: whether it shows a system message that comes later.
        tools: whether it shows tools.
        calls: whether it shows calls.
        calls_beside_text: whether it also does in a turn with text.
        results: whether it shows what tools return.
    """

    forms: Forms = field(default_factory=Forms)
    assistant: bool = True
    system: bool = True
    system_with_tools: bool = True
    later_system: bool = True
    tools: bool = False
    calls: bool = False
    calls_beside_text: bool = True
    results: bool = False


_ASKED, _SAID, _TOLD, _RETURNED = "whimbrel", "dotterel", "sandpiper", "turnstone"
_CALLED, _KEY, _VALUE = "count_avocet", "lapwing", "redshank"
_ARGUMENTS: tuple[Literal["mapping", "text"], ...] = ("mapping", "text")
_NO_CONTENT: tuple[Literal["text", "absent", "none", "parts"], ...] = (
    "text", "absent", "none", "parts"
)  # fmt: skip
_TOOL = Tool(
    "find_godwit", "greenshank",
    {
        "type": "object",
        "properties": {"ruff": {"type": "string", "description": "Which."}},
        "required": ["ruff"],
    },
)  # fmt: skip
_TOOL_WORDS = (_TOOL.name, _TOOL.description, "ruff")
_CALL = ToolCall("curlew123", _CALLED, json.dumps({_KEY: _VALUE}))

_USER: Message = {"role": "user", "content": _ASKED}
_USER_AGAIN: Message = {"role": "user", "content": "And?"}
_ASSISTANT: Message = {"role": "assistant", "content": _SAID}
_SYSTEM: Message = {"role": "system", "content": _TOLD}
_CALLS: Message = {"role": "assistant", "content": "", "tool_calls": (_CALL,)}
_RESULT: Message = {
    "role": "tool", "content": _RETURNED, "tool_call_id": _CALL.id, "name": _CALL.name
}  # fmt: skip


def read(write: Write) -> Reading:
    """Return what a template reads.

    Args:
        write: writes chats by the template.

    Raises:
        ModelError: there is no template, or none that can be used.
    """
    show = _Show(write)
    reading = _of_users(show)
    if not reading:
        return Reading()
    for add in (_of_assistants, _of_system, _of_tools, _of_calls, _of_results):
        reading = add(reading, show)
    return reading


class _Show:
    """Writes planted chats, and looks for words in them."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def text(self, chat: Sequence[Message], tools: Sequence[Tool], forms: Forms) -> str | None:
        """Return a chat as text, or None where the template refuses it."""
        try:
            return self._write(chat, tools, forms)
        except RequestError:
            return None

    def has(
        self, words: Iterable[str], chat: Sequence[Message], forms: Forms,
        tools: Sequence[Tool] = (),
    ) -> bool:
        """Whether words are there, as they are and not as Python would write what holds them."""
        text = (self.text(chat, tools, forms) or "").lower()
        return all(word in text for word in words) and not any(odd in text for odd in _odd())

    def first(
        self, words: Iterable[str], chat: Sequence[Message], candidates: Iterable[Forms],
        tools: Sequence[Tool] = (),
    ) -> Forms | None:
        """Return the first forms in which words are shown."""
        return next((forms for forms in candidates if self.has(words, chat, forms, tools)), None)


def _odd() -> Iterator[str]:
    """Yield how a value looks that a template pasted in a form that it does not read."""
    yield "{'type': 'text'"
    yield str({_KEY: _VALUE})
    yield json.dumps(_CALL.arguments)


def _with_parts(forms: Forms, role: str) -> Forms:
    return replace(forms, parts=forms.parts | {role})


def _of_users(show: _Show) -> Reading | None:
    plain, listed = Forms(), Forms(no_tools="list")
    candidates = [plain, _with_parts(plain, "user"), listed, _with_parts(listed, "user")]
    forms = show.first([_ASKED], [_USER], candidates)
    return Reading(forms) if forms else None


def _of_assistants(reading: Reading, show: _Show) -> Reading:
    chat = [_USER, _ASSISTANT, _USER_AGAIN]
    candidates = [reading.forms, _with_parts(reading.forms, "assistant")]
    if forms := show.first([_SAID], chat, candidates):
        return replace(reading, forms=forms)
    return replace(reading, assistant=show.text(chat, (), reading.forms) is None)


def _of_system(reading: Reading, show: _Show) -> Reading:
    words = [_TOLD, _ASKED]
    candidates = [reading.forms, _with_parts(reading.forms, "system")]
    forms = show.first(words, [_SYSTEM, _USER], candidates)
    if not forms:
        return replace(reading, system=False, system_with_tools=False, later_system=False)
    later = show.has(words, [_USER, _ASSISTANT, _SYSTEM, _USER_AGAIN], forms)
    return replace(reading, forms=forms, later_system=later)


def _of_tools(reading: Reading, show: _Show) -> Reading:
    candidates = [reading.forms, replace(reading.forms, tools="bare")]
    forms = show.first([*_TOOL_WORDS, _ASKED], [_USER], candidates, [_TOOL])
    if not forms:
        return reading
    beside = show.has([_TOLD, _TOOL.name], [_SYSTEM, _USER], forms, [_TOOL])
    return replace(reading, forms=forms, tools=True, system_with_tools=beside)


def _of_calls(reading: Reading, show: _Show) -> Reading:
    """Read the form of calls; templates differ in what may stand behind them."""
    words, tools = [_CALLED, _KEY, _VALUE], [_TOOL] if reading.tools else []
    variants = product(_ARGUMENTS, _NO_CONTENT)
    candidates = [
        replace(reading.forms, arguments=arguments, no_content=no_content)
        for arguments, no_content in variants
    ]
    for rest in ([_RESULT, _ASSISTANT, _USER_AGAIN], [_RESULT], [_USER_AGAIN], []):
        if forms := show.first(words, [_USER, _CALLS, *rest], candidates, tools):
            worded = {**_CALLS, "content": _SAID}
            beside = show.has(words, [_USER, worded, *rest], forms, tools)
            return replace(reading, forms=forms, calls=True, calls_beside_text=beside)
    return reading


def _of_results(reading: Reading, show: _Show) -> Reading:
    tools = [_TOOL] if reading.tools else []
    candidates = [reading.forms, _with_parts(reading.forms, "tool")]
    called = _CALLS if reading.calls else _ASSISTANT
    for rest in ([_ASSISTANT, _USER_AGAIN], []):
        chat = [_USER, called, _RESULT, *rest]
        if forms := show.first([_RETURNED], chat, candidates, tools):
            return replace(reading, forms=forms, results=True)
    return reading
