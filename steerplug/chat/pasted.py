"""Control tokens in what people wrote: they stay text, whatever the chat template writes around it.

A template writes marks such as `<|im_end|>`, and those alone begin and end turns. Where people's
text (messages, tools, variables) holds the text of such a token, a private character that no text
of the chat has is put into it before the template sees it. What comes out of the template tells so
whose each mark is. An assistant's own marks of thoughts and calls are the model's: they stay.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from steerplug.chat.calls.plain import Message
from steerplug.chat.tool import Tool, ToolCall
from steerplug.engine.vocab import Control, Vocab
from steerplug.errors import RequestError

_PRIVATE = range(0xE000, 0xF900)


@dataclass(frozen=True)
class Chat:
    """What a template is given: messages, tools and variables of its own."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    def texts(self) -> Iterator[str]:
        """Yield every text in it."""
        yield from _texts([*self.messages, *self.tools, self.variables])

    def mapped(self, change: Callable[[str, bool], str]) -> "Chat":
        """Return the chat with every text changed; told besides whether the assistant wrote it."""

        def by_people(text: str) -> str:
            return change(text, False)

        def by_assistant(text: str) -> str:
            return change(text, True)

        messages = [
            {**_mapped(message, by_assistant if message["role"] == "assistant" else by_people),
             "role": message["role"]}
            for message in self.messages
        ]  # fmt: skip
        tools = [_mapped(tool, by_people) for tool in self.tools]
        return Chat(messages, tools, _mapped(self.variables, by_people))


def unused_characters(texts: Iterable[str], n: int) -> list[str]:
    """Return n private characters that no text has, as themselves or escaped."""
    text = "\n".join(texts)
    letters = map(chr, _PRIVATE)
    unused = (letter for letter in letters if letter not in text and escaped(letter) not in text)
    return list(islice(unused, n))


def escaped(letter: str) -> str:
    """Return a private character as JSON in ASCII has it."""
    return f"\\u{ord(letter):04x}"


class Pasted:
    """Keeps the control tokens of one vocabulary out of what people wrote.

    Args:
        vocab: the vocabulary.
        own: marks that an assistant's turn may hold.
    """

    def __init__(self, vocab: Vocab, own: Iterable[str]) -> None:
        self._vocab = vocab
        controls = [text for text in vocab.controls if len(text) > 1]
        self._control = _any_of(controls)
        self._not_own = _any_of(set(controls) - set(own))

    def split(self, chat: Chat, letter: str) -> Chat:
        """Return the chat with `letter` in each text of a control token, if there are any.

        Raises:
            RequestError: something in it is nested too deeply.
        """
        if not any(map(self._control.search, chat.texts())):
            return chat

        def change(text: str, by_assistant: bool) -> str:
            controls = self._not_own if by_assistant else self._control
            return controls.sub(lambda match: f"{match[0][0]}{letter}{match[0][1:]}", text)

        try:
            return chat.mapped(change)
        except RecursionError:
            raise RequestError("the chat is nested too deeply; simplify its tools.") from None

    def tokenize(self, text: str, letter: str) -> list[int]:
        """Return the tokens of a text that a template wrote of a chat that was split."""
        tokens, read = list[int](), ""
        parts = re.split(f"({self._control.pattern})", text)
        controls = [None, *parts[1::2], None]
        for i, part in enumerate(parts[::2]):
            if letter in part:
                part = self._stripped(part.replace(letter, ""), controls[i], controls[i + 1])
                tokens += [*self._read(read), *self._vocab.tokenize(part)]
                read = ""
            else:
                read += part
            read += controls[i + 1] or ""
        return tokens + self._read(read)

    def _read(self, text: str) -> list[int]:
        return self._vocab.tokenize(text, special=True) if text else []

    def _stripped(self, part: str, before: str | None, after: str | None) -> str:
        """Return a text as the control tokens beside it leave it."""
        known, none = self._vocab.controls, Control()
        if known.get(before or "", none).strips_after:
            part = part.lstrip(" \t\n\v\f\r")
        return part.rstrip(" \t\n\v\f\r") if known.get(after or "", none).strips_before else part


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return the pattern of any of these texts, the longest first, as llama.cpp looks for them."""
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _texts(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            left += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            left += value
        elif isinstance(value, Tool | ToolCall):
            left += vars(value).values()
        if isinstance(value, ToolCall) and "\\u" in value.arguments:
            left.append(_arguments(value))


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(key, change): _mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(inner, change) for inner in value]
    if isinstance(value, Tool):
        return Tool(**{name: _mapped(inner, change) for name, inner in vars(value).items()})
    if isinstance(value, ToolCall):
        return _mapped_call(value, change)
    return value


def _mapped_call(call: ToolCall, change: Callable[[str], str]) -> ToolCall:
    arguments = _arguments(call)
    text = json.dumps(_mapped(arguments, change), ensure_ascii=False) if arguments else change(
        call.arguments
    )
    return replace(call, id=change(call.id), name=change(call.name), arguments=text)


def _arguments(call: ToolCall) -> Any:
    """Return a call's arguments, or None where they are no JSON."""
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):
        return None
