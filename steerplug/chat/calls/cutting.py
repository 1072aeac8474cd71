"""Texts that a template made, cut at their marks."""

import re
from collections.abc import Callable, Sequence

from steerplug.chat.calls.form import ID, MARK, NUMBER, Form
from steerplug.chat.calls.members import Members
from steerplug.chat.common import n_common

ANSWER = "Waxwings."
"""What is said in the place of calls, for comparison."""

_OPENING = re.compile(MARK.pattern + r"|<[^<>\s]+$")  # the name may stand within its mark
_JSON_OPENING = re.compile(r'\s*(\[?\s*\{\s*"\w+")')
_HALF = re.compile(r"<[^<>\s]*$")
_WORDS = re.compile(r"\n*([^\[{]*[^\[{\s])")
_PLACED, _NAME_OR_PLACE = re.compile(f"[{ID}{NUMBER}]"), re.compile(rf"[\w.{ID}{NUMBER}-]")
_ID_MEMBER = re.compile(rf',\s*"\w+":\s*"{ID}"')


class PlantedReply:
    """An assistant's turn with planted calls, and the same with an answer in their place.

    Args:
        text: a chat that ends in a turn with calls.
        plain: the same with an answer in their place; empty where the template refuses that.
        ids: the identifiers of the calls.
        is_end: whether a mark ends a turn.
    """

    def __init__(
        self, text: str, plain: str, ids: Sequence[str], is_end: Callable[[str], bool]
    ) -> None:
        n = whole(text, n_common(text, plain))
        self.text, self.answer, self._plain, self._is_end = text[n:], plain[n:], plain, is_end
        for call_id in ids:
            self.text = self.text.replace(call_id, ID)
        marks = MARK.findall(self.answer[self.answer.find(ANSWER) :])
        self.after = [mark for mark in marks if "think" not in mark.lower()]

    def end(self, text: str, marks: Sequence[str] | None = None) -> int:
        """Return where a mark ends the turn, or -1."""
        known = self.after if marks is None else marks
        places = (m.start() for m in MARK.finditer(text) if m[0] in known or self._is_end(m[0]))
        return next(places, -1)

    def turn(self, rest: str) -> str:
        """Return what of the rest of a text belongs to the turn."""
        n = self.end(rest)
        if n >= 0:
            return rest[:n].rstrip()
        n = len(rest) - n_common(rest[::-1], self._plain[::-1])
        return _HALF.sub("", rest[:n]).rstrip()

    def form(
        self, lead: str, middle: str, tail: str, again: str = "", end: str = "",
        members: Members | None = None,
    ) -> Form | None:  # fmt: skip
        """Return a form whose first call begins with `lead`, of which the opening is a part."""
        opening = self._opening(lead)
        if not opening or _PLACED.search(opening) or _NAME_OR_PLACE.match(middle):
            return None
        marked = tail if not again or opening in again else end
        return Form(
            opening=opening,
            head=lead[lead.index(opening) + len(opening) :],
            middle=middle,
            tail=_ID_MEMBER.sub("", tail),
            again=again,
            end=end,
            closing=next(iter(MARK.findall(marked)[::-1]), ""),
            first=re.match(r"\w|[\[{]", opening) is not None and not MARK.fullmatch(opening),
            members=members,
        )

    def _opening(self, lead: str) -> str:
        """Return what tells a call from an answer: a mark, the first key of JSON, or words."""
        for mark in _OPENING.findall(lead):
            if mark not in self.answer and "think" not in mark.lower():
                return str(mark)
        start = _JSON_OPENING.match(lead) or _WORDS.match(lead)
        return str(start[1]) if start else ""


def numbered(first: str, second: str) -> tuple[str, str]:
    """Return two texts with `NUMBER` for what counts from one to the other, at equal ends."""
    parts = [re.split(r"([0-9]+)", text)[::-1] for text in (first, second)]
    for i, (a, b) in enumerate(zip(*parts, strict=False)):
        if a.isdigit() and b.isdigit() and int(b) == int(a) + 1:
            parts[0][i] = parts[1][i] = NUMBER
        elif a != b:
            break
    return "".join(parts[0][::-1]), "".join(parts[1][::-1])


def whole(text: str, n: int) -> int:
    """Return the place at or before `n` that cuts no mark."""
    cut = (mark.start() for mark in _OPENING.finditer(text) if mark.start() < n < mark.end())
    return next(cut, n - text[:n].endswith("<"))
