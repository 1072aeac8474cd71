"""Where the messages of a chat stand in its text.

The chat is rendered once more with a mark in place of each message's content: what stands between
the marks is what the template writes by itself. Both texts are then walked through together. A
content that the template trims or shortens ends where the template's own text goes on; what it
drops has no place.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steerplug.chat.calls.plain import Message
from steerplug.chat.common import n_common
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
        self._beginnings = {self._role(len(messages) - 1): [own[-1]]} if answers else {}
        self._known: dict[tuple[str, str | None], int] = {}
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
            begin = at + self._n_agreed(written, at)
            end = self._end(self._messages[i]["content"], begin, after, i == order[-1])
            places.setdefault(i, Place(at, begin, end))
            at = end
        return places

    def _end(self, content: str, begin: int, after: str, is_last: bool) -> int:
        """Return where a content that begins here ends, and `after` begins."""
        text = self._text
        forms = [content, content.strip(), content.lstrip(), content.rstrip()]
        ends = [begin + len(form) for form in forms if text.startswith(form, begin)]
        for end in ends:
            if text.startswith(after, end) and (not is_last or end + len(after) == len(text)):
                return end
        if is_last and text.endswith(after):
            return max(len(text) - len(after), begin)
        agreed = {end: self._n_agreed(after, end) for end in ends if end > begin}
        best = max(agreed, key=lambda end: agreed[end], default=begin)
        if 2 * agreed.get(best, 0) >= len(after):
            return best
        for form in (after, after.lstrip()):  # the content is not there as it is
            if content and form and (end := text.find(form, begin)) >= 0:
                return end
        return best

    def _n_agreed(self, own: str, at: int) -> int:
        """Return how much of what a template writes by itself stands here."""
        if self._text.startswith(own, at):
            return len(own)
        forms = own, own.lstrip()
        return max(_to_a_mark(form, n_common(form, self._text, at)) for form in forms)

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
        if place:
            begin = min(begin, place.begin if i - 1 in self.places else place.end)
        return begin

    def _n_written(self, i: int, at: int, own: str | None) -> int:
        """Return how much of what stands at `at` the template had written when message i began."""
        beginnings = self._beginnings.setdefault(self._role(i - 1), [])
        for beginning in beginnings:
            if beginning and self._text.startswith(beginning, at):
                return len(beginning)
        key = self._role(i - 1), own
        if own is None or key not in self._known:
            self._known[key] = self._n_in_common(i, at, beginnings, len(own or ""))
        return self._known[key]

    def _n_in_common(self, i: int, at: int, beginnings: list[str], default: int) -> int:
        if i == 0 or self._n_asked == _MOST_BEGINNINGS:
            return default
        self._n_asked += 1
        if i - 1 in self.places:
            beginnings.append(self._split(i, True)[0][-1])
            n = n_common(beginnings[-1], self._text, at)
            return _to_a_mark(beginnings[-1], n)
        before = self._write(self._messages[:i], True)
        return max(_to_a_mark(before, n_common(before, self._text)) - at, 0)

    def _role(self, i: int) -> str:
        return str(self._messages[i]["role"]) if i >= 0 else ""


def _to_a_mark(text: str, n: int) -> int:
    """Return n, or where the mark begins that it is in the midst of."""
    return n if n == len(text) else len(re.sub(r"[<\[][^\s<>\[\]]*\Z", "", text[:n]))
