"""Where the messages of a chat stand in its text.

The chat is rendered once more with a mark in place of each message's content: what stands between
the marks is what the template writes by itself. Both texts are then walked through together. A
content that the template trims or shortens ends where the template's own text goes on; what it
drops has no place.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steerplug.chat.calls.plain import Message
from steerplug.errors import RequestError

Write = Callable[[Sequence[Message], bool], str]
"""Writes messages as text, with the beginning of a reply at its end or without."""

_MOST_BEGINNINGS = 8


@dataclass(frozen=True)
class Place:
    """Where a message stands.

    Args:
        after: where the content before it ends, and the template's own text begins.
        begin, end: of its content.
    """

    after: int
    begin: int
    end: int


class Outline:
    """The places of messages in the text of their chat.

    Args:
        text: the chat.
        messages: what it is of.
        write: what wrote it.
        marks: two characters that are not in it.
        answers: whether the beginning of a reply ends the text.
    """

    def __init__(
        self, text: str, messages: Sequence[Message], write: Write, marks: Sequence[str],
        *, answers: bool = True,
    ) -> None:  # fmt: skip
        self._text, self._messages, self._write, self._marks = text, messages, write, marks
        self._marked = [self._mark(i, message) for i, message in enumerate(messages)]
        own, order = self._split(len(messages), answers)
        self.places = self._walk(own, order)
        self._beginnings = [own[-1]] if answers else []
        self._known: dict[str, int] = {}
        self._n_asked = 0

    def _mark(self, i: int, message: Message) -> Message:
        if message.get("tool_calls") and not message["content"]:
            return message  # some templates write an empty content otherwise
        return {**message, "content": f"{self._marks[0]}{i}{self._marks[1]}"}

    def _split(self, n: int, answers: bool) -> tuple[list[str], list[int]]:
        """Return what a template writes around the contents of n messages, and their order."""
        try:
            text = self._write(self._marked[:n], answers)
        except RequestError:
            return [""], []
        parts = re.split(f"{self._marks[0]}([0-9]+){self._marks[1]}", text)
        return parts[::2], [int(number) for number in parts[1::2]]

    def _walk(self, own: Sequence[str], order: Sequence[int]) -> dict[int, Place]:
        places, at = dict[int, Place](), 0
        for written, after, i in zip(own, own[1:], order, strict=False):
            begin = at + n_common(written, self._text, at)
            end = self._end(self._messages[i]["content"], begin, after, i == order[-1])
            places.setdefault(i, Place(at, begin, end))
            at = end
        return places

    def _end(self, content: str, begin: int, after: str, is_last: bool) -> int:
        """Return where a content that begins here ends, and `after` begins."""
        text = self._text
        ways = [content, content.strip(), content.lstrip(), content.rstrip()]
        ends = [begin + len(way) for way in ways if text.startswith(way, begin)]
        for end in ends:
            if text.startswith(after, end) and (not is_last or end + len(after) == len(text)):
                return end
        if is_last and text.endswith(after):
            return max(len(text) - len(after), begin)
        if after and (end := text.find(after, begin)) >= 0:
            return end
        return max(ends, default=begin)

    def begins(self, i: int) -> int:
        """Return where the model began to write message i, as far as the chat still shows that.

        That is where the beginning of a reply to the messages before it ends, or else where the
        two part.
        """
        place = self.places.get(i)
        at = place.after if place else max(
            (other.end for number, other in self.places.items() if number < i), default=0
        )
        begin = at + self._n_written(i, at, self._text[at : place.begin] if place else None)
        return min(begin, place.begin) if place else begin

    def _n_written(self, i: int, at: int, own: str | None) -> int:
        """Return how much of what stands at `at` the template had written when message i began."""
        for beginning in self._beginnings:
            if beginning and self._text.startswith(beginning, at):
                return len(beginning)
        if own is not None and own in self._known:
            return self._known[own]
        if i and self._n_asked < _MOST_BEGINNINGS:
            self._n_asked += 1
            self._beginnings.append(self._split(i, True)[0][-1])
            n = n_common(self._beginnings[-1], self._text, at)
        else:
            n = len(own or "")
        if own is not None:
            self._known[own] = n
        return n


def n_common(a: Sequence[Any], b: Sequence[Any], begin: int = 0) -> int:
    """Return how many leading items of `a` stand in `b` from `begin` on."""
    low, high = 0, min(len(a), len(b) - begin)
    while low < high:
        middle = (low + high + 1) // 2
        same = a[low:middle] == b[begin + low : begin + middle]
        low, high = (middle, high) if same else (low, middle - 1)
    return low
