"""The form of calls whose arguments stand member by member, read from what a template makes of two.

The first call has a text, a number, a text and a truth, so each place between members is seen twice
and texts are told from other values; the second shows what stands between calls.
"""

import json
import re
from dataclasses import replace
from typing import NamedTuple

from steerplug.chat.calls.cutting import PlantedReply, numbered, whole
from steerplug.chat.calls.form import Form
from steerplug.chat.calls.members import Members
from steerplug.chat.common import n_common
from steerplug.chat.tool import ToolCall

_TEXT, _SECOND, _NUMBER, _OTHER = "\"Old\" wood's\nedge", "thicket", 7311, 8422
MEMBERED = (
    ToolCall("kestrel01", "find_kestrel", json.dumps(
        {"alder": _TEXT, "birch": _NUMBER, "cedar": _SECOND, "dogwood": True})),
    ToolCall("magpies02", "count_magpie", json.dumps({"birch": _OTHER})),
)  # fmt: skip
SIGN = str(_NUMBER)
"""What shows that a template wrote these."""


class _Seen(NamedTuple):
    """What stands around the members of the first call, and behind its last value."""

    begin: str
    text: str
    behind_text: str
    value: str
    behind_value: str
    rest: str
    is_quoted: bool


def read_members(reply: PlantedReply) -> Form | None:
    """Return the form of the calls in a reply, if they can be read back."""
    lead, _, behind = reply.text.partition(MEMBERED[0].name)
    seen = _seen(behind)
    if seen is None or reply.end(lead, reply.after[:1]) >= 0:
        return None
    members, middle = _members(seen)
    if not (members.text_end or members.is_quoted):
        return None
    rest = seen.rest.removeprefix(members.value_end)
    between, found, second = rest.partition(MEMBERED[1].name)
    if not found or reply.end(between) >= 0:
        return _with_short(reply.form(lead, middle, reply.turn(rest), members=members))
    member = f"{members.key}birch{members.value}{_OTHER}{members.value_end}"
    other, _, end = second.partition(member)
    lead, between = numbered(lead, between)
    middle, other = numbered(middle, other)
    if middle != other:
        return None
    end = reply.turn(end)
    n = whole(between, n_common(between, end))
    return _with_short(reply.form(lead, middle, between[:n], between[n:], end[n:], members))


def _seen(text: str) -> _Seen | None:
    """Return what stands around the members of the first call, where that is regular."""
    said = next((form for form in (_TEXT, json.dumps(_TEXT), repr(_TEXT)) if form in text), "")
    if not said:
        return None
    quote = "" if said == _TEXT else said[:1]
    order = ["alder", said, "birch", str(_NUMBER), "cedar", f"{quote}{_SECOND}{quote}", "dogwood"]
    parts = list[str]()
    for part in order:
        before, found, text = text.partition(part)
        if not found:
            return None
        parts.append(before)
    truth = re.search("[Tt]rue", text)
    if truth is None:
        return None
    begin, first, behind, value, between, second, behind_second = parts
    if (first, behind, value) != (second, behind_second, text[: truth.start()]):
        return None
    if first[-1:] in ("'", '"') and first[-1:] == behind[:1]:  # in quotes, and nothing escaped
        quote, first, behind = first[-1], first[:-1], behind[1:]
    return _Seen(begin, first, behind, value, between, text[truth.end() :], bool(quote))


def _members(seen: _Seen) -> tuple[Members, str]:
    """Return how members are written, and what stands between the name and the first of them."""
    n = whole(seen.behind_value, n_common(seen.behind_value, seen.rest))
    end = seen.behind_value[:n]
    further = seen.behind_value[len(end) :]
    begin = seen.begin
    key = further[len(further) - n_common(further[::-1], begin[::-1]) :]
    members = Members(
        key=key,
        text=seen.text,
        text_end=seen.behind_text.removesuffix(further),
        value=seen.value,
        value_end=end,
        between=further.removesuffix(key),
        is_quoted=seen.is_quoted,
    )
    return members, begin.removesuffix(key)


def _with_short(form: Form | None) -> Form | None:
    """Return a form, and one without its first mark where another stands before the name.

    Models leave the first out: Qwen3-Coder begins with `<function=` where it should not.
    """
    mark = re.search(r"<[^<>\s]+$", form.head) if form else None
    if form is None or mark is None:
        return form
    return replace(form, also=(replace(form, opening=mark[0], head=""),))
