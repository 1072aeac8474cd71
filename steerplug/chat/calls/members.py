"""Arguments of calls that are written member by member, each in its own mark or as in Python.

Texts stand there as they are, without quotes; what else stands there is JSON. So the schema of a
member tells a text from a number. Read back, arguments are JSON like any others.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steerplug.chat.calls.kinds import PYTHON, Kinds, kinds_of
from steerplug.engine.overlap import overlap


@dataclass(frozen=True)
class Members:
    """How arguments are written that are no JSON object.

    Args:
        key: what stands before a key.
        text: what stands between a key and a text, and `text_end` behind the text.
        value: what stands between a key and another value, and `value_end` behind that.
        between: what stands between two members.
        is_quoted: whether texts are in quotes, as JSON writes them.
    """

    key: str
    text: str
    text_end: str
    value: str
    value_end: str
    between: str = ""
    is_quoted: bool = False

    @property
    def is_nested(self) -> bool:
        """Whether values within others are written as members are, and not as JSON."""
        return not self.value_end and not self.is_quoted

    @property
    def text_opening(self) -> str:
        """The mark before a text that is no member."""
        return self.text.removeprefix(self.value)

    def written(self, arguments: str) -> str:
        """Return arguments in JSON as a model writes them."""
        return self.between.join(self._member(*item) for item in json.loads(arguments).items())

    def _member(self, key: str, value: Any) -> str:
        if isinstance(value, str) and not self.is_quoted:
            return f"{self.key}{key}{self.text}{value}{self.text_end}"
        return f"{self.key}{key}{self.value}{self._said(value)}{self.value_end}"

    def _said(self, value: Any) -> str:
        if self.is_nested and isinstance(value, dict):
            members = (self._member(*item) for item in value.items())
            return f"{{{self.between.join(members)}}}"
        if self.is_nested and isinstance(value, list):
            return f"[{self.between.join(map(self._said, value))}]"
        if self.is_nested and isinstance(value, str):
            return f"{self.text_opening}{value}{self.text_end}"
        said = json.dumps(value, ensure_ascii=False)
        return PYTHON.get(said, said) if self.is_quoted else said


class MembersReader:
    """Reads arguments as JSON, in the parts they come in.

    Args:
        members: how they are written.
        schema: what they follow.
        tail: the regular expression of what ends the call.

    `reached` tells whether their end was.
    """

    def __init__(self, members: Members, schema: Mapping[str, Any], tail: str) -> None:
        self._members, self._schema, self._tail = members, schema, re.compile(tail)
        self._count, self.reached = 0, False
        self._kinds: Kinds | None = None
        self._is_text = False

    def take(self, text: str) -> tuple[str, str]:
        """Return what is certain of the JSON by now, and the text that is still to be read."""
        said = ""
        while not self.reached:
            if self._is_text:
                part, text, goes_on = self._more_text(text)
            elif self._kinds:
                part, text, goes_on = self._value(text, self._kinds)
            else:
                part, text, goes_on = self._key(text)
            said += part
            if not goes_on:
                break
        return said, text

    def _key(self, text: str) -> tuple[str, str, bool]:
        members = self._members
        if self._tail.match(text):
            self.reached = True
            return "}" if self._count else "{}", text, False
        before = re.escape((members.between if self._count else "") + members.key)
        begins = sorted((members.text, members.value), key=len, reverse=True)
        found = re.match(f"{before}(.+?)({'|'.join(map(re.escape, begins))})", text)
        if not found or (found[2] != begins[0] and begins[0].startswith(text[found.start(2) :])):
            return "", text, False
        self._kinds = kinds_of(self._schema, found[1])
        is_told = members.text != members.value
        if is_told and not members.is_quoted:
            self._kinds = self._kinds.only("string", found[2] == members.text)
        self._is_text = self._kinds.is_text and not members.is_quoted
        self._count += 1
        said = ("{" if self._count == 1 else ", ") + json.dumps(found[1]) + ": "
        return said + '"' * self._is_text, text[found.end() :], True

    def _more_text(self, text: str) -> tuple[str, str, bool]:
        """Hand on a text as it comes."""
        end = self._members.text_end
        said, found, rest = text.partition(end)
        if not found:
            n = len(text) - overlap(text, end)
            return _inner(text[:n]), text[n:], False
        self._is_text, self._kinds = False, None
        return _inner(said) + '"', rest, True

    def _value(self, text: str, kinds: Kinds) -> tuple[str, str, bool]:
        """Hand on a value that is whole."""
        if self._members.value_end:
            said, found, rest = text.partition(self._members.value_end)
            if not found:
                return "", text, False
        else:
            return self._unmarked_value(text)
        self._kinds = None
        return json.dumps(kinds.restored(said), ensure_ascii=False), rest, True

    def _unmarked_value(self, text: str) -> tuple[str, str, bool]:
        """Hand on a value that no mark ends, once more follows it."""
        try:
            value, end = _parsed(text, 0, self._members)
        except ValueError:
            return "", text, False
        if end == len(text):
            return "", text, False
        self._kinds = None
        return json.dumps(value, ensure_ascii=False), text[end:], True


def n_members(members: Members, tail: str, text: str) -> int | None:
    """Return how much of a text is its arguments, with which it begins; None if they go on.

    Args:
        members: how they are written.
        tail: the regular expression of what ends the call.
        text: the text.
    """
    reader = MembersReader(members, {}, tail)
    _, rest = reader.take(text)
    return len(text) - len(rest) if reader.reached else None


def _parsed(text: str, begin: int, members: Members) -> tuple[Any, int]:
    """Return the value that begins at a place in a text, and where it ends.

    Raises:
        ValueError: it is not whole.
    """
    opening, end = members.text_opening, members.text_end
    if members.is_nested and text.startswith(opening, begin):
        at = text.index(end, begin + len(opening))
        return text[begin + len(opening) : at], at + len(end)
    if members.is_nested and text[begin : begin + 1] in ("{", "["):
        return _parsed_parts(text, begin, members)
    if word := re.compile(r"[A-Za-z]+|[-+.0-9eE]+").match(text, begin):
        return Kinds().restored(word[0]), word.end()
    return json.JSONDecoder().raw_decode(text, begin)


def _parsed_parts(text: str, begin: int, members: Members) -> tuple[Any, int]:
    """Return the object or the list that begins at a place in a text, and where it ends."""
    closing, place = {"{": "}", "[": "]"}[text[begin]], begin + 1
    parts: list[tuple[str, Any]] = []
    while not text.startswith(closing, place):
        key = ""
        place += len(members.between) if parts else 0
        if closing == "}":
            at = text.index(members.value, place)
            key, place = text[place:at], at + len(members.value)
        value, place = _parsed(text, place, members)
        parts.append((key, value))
    made = dict(parts) if closing == "}" else [value for _, value in parts]
    return made, place + 1


def _inner(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
