"""The form that a template writes calls in, read from what it makes of a planted chat.

An assistant's turn with calls of known names and arguments is rendered, and what stands around them
is the form. No mark in the template's source is looked for: a template may hold marks that it never
writes. A template that shows its tools and drops calls may tell the model how to write them; the
forms that are told so are known by their marks.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product

from steerplug.chat.calls.form import FUNCTION, ID, LISTED, MARK, NUMBER, PIPED, TAGGED, Form
from steerplug.chat.calls.plain import Message
from steerplug.chat.tool import Tool, ToolCall
from steerplug.errors import SteerplugError

Render = Callable[[Sequence[Message], Sequence[Tool]], str]
"""A chat and its tools as the template itself writes them, up to where the assistant answers."""

_WOOD = {"type": "object", "properties": {"wood": {"type": "string", "description": "Which."}}}
_TOOLS = (
    Tool("find_kestrel", "Finds a kestrel.", {**_WOOD, "required": ["wood"]}),
    Tool("count_magpie", "Counts magpies.", {**_WOOD, "required": ["wood"]}),
)
_CALLS = (
    ToolCall("kestrel01", "find_kestrel", '{"wood": "northern"}'),
    ToolCall("magpies02", "count_magpie", '{"wood": "southern"}'),
)
_USER: Message = {"role": "user", "content": "Where?"}
_ANSWER = "Waxwings."

_OPENING = re.compile(MARK.pattern + r"|<[^<>\s]+$")  # the name may stand within its mark
_JSON_OPENING = re.compile(r'\s*(\[?\s*\{\s*"\w+")')
_WORDS = re.compile(r"\n*([^\[{]*[^\[{\s])")
_PLACED, _NAME_OR_PLACE = re.compile(f"[{ID}{NUMBER}]"), re.compile(rf"[\w.{ID}{NUMBER}-]")
_ID_MEMBER = re.compile(rf',\s*"\w+":\s*"{ID}"')


def find_form(render: Render, is_end: Callable[[str], bool]) -> Form | None:
    """Return the form that a template writes calls in.

    None where it shows no calls and tells of none, or where what it writes is not to be read back:
    arguments that are no JSON object, or calls that nothing tells from text.

    Args:
        render: writes chats by the template.
        is_end: whether a mark ends a turn of this model.
    """
    for chat, answered in _chats():
        text = _rendered(render, chat)
        if text is not None and "northern" in text:
            return _read(text, _rendered(render, answered) or "", is_end)
    return _told(_rendered(render, [_USER]) or "")


def _chats() -> Iterator[tuple[list[Message], list[Message]]]:
    """Yield chats with calls, each with one where an answer is in their place.

    Templates differ in what they refuse or leave out: several calls in a turn, a turn without text,
    a turn that nothing follows.
    """
    for is_last, calls, content in product((True, False), (_CALLS, _CALLS[:1]), ("", None)):
        turn: Message = {"role": "assistant", "content": content, "tool_calls": calls}
        results = [
            {"role": "tool", "content": "Here.", "tool_call_id": call.id, "name": call.name}
            for call in calls
        ]
        answer: Message = {"role": "assistant", "content": _ANSWER}
        yield (
            [_USER, turn, *([] if is_last else [*results, _USER])],
            [_USER, answer, *([] if is_last else [_USER])],
        )


def _rendered(render: Render, messages: Sequence[Message]) -> str | None:
    try:
        return render(messages, _TOOLS)
    except SteerplugError:
        return None


def _told(text: str) -> Form | None:
    """Return the form that the words of a template ask for."""
    if "find_kestrel" not in text or "<parameter=" in text or "<arg_key>" in text:
        return None
    known = (form for form in (TAGGED, PIPED, LISTED, FUNCTION) if form.opening in text)
    return next(known, None)


def _read(text: str, plain: str, is_end: Callable[[str], bool]) -> Form | None:
    """Return the form of the calls in a text, if they can be read back.

    Args:
        text: a chat that ends in a turn with calls.
        plain: the same with an answer in their place; empty where the template refuses that.
        is_end: whether a mark ends a turn.
    """
    n = _whole(text, _common(text, plain))
    reply, answer = text[n:], plain[n:]
    for call in _CALLS:
        reply = reply.replace(call.id, ID)
    after = MARK.findall(answer[answer.find(_ANSWER) :])

    def ends(text: str, marks: Sequence[str] = after) -> int:
        """Return where a mark ends the turn, or -1."""
        places = (m.start() for m in MARK.finditer(text) if m[0] in marks or is_end(m[0]))
        return next(places, -1)

    def turn(rest: str) -> str:
        n = ends(rest)
        return rest[: n if n >= 0 else len(rest) - _common(rest[::-1], plain[::-1])].rstrip()

    first = _around(reply, _CALLS[0])
    if first is None or ends(first[0], after[:1]) >= 0:
        return None
    lead, middle, rest = first
    second = _around(rest, _CALLS[1])
    if second is None or ends(second[0]) >= 0:
        return _form(lead, middle, turn(rest), "", "", answer)
    between, other, rest = second
    lead, between = _numbered(lead, between)
    middle, other = _numbered(middle, other)
    if middle != other:
        return None
    n = _whole(between, _common(between, turn(rest)))
    return _form(lead, middle, between[:n], between[n:], turn(rest)[n:], answer)


def _around(text: str, call: ToolCall) -> tuple[str, str, str] | None:
    """Return what stands before a call's name, behind it, and behind its arguments."""
    before, _, behind = text.partition(call.name)
    arguments, decoder = json.loads(call.arguments), json.JSONDecoder()
    for brace in re.finditer(r"\{", behind):
        try:
            value, end = decoder.raw_decode(behind, brace.start())
        except ValueError:
            continue
        if value == arguments:
            return before, behind[: brace.start()], behind[end:]
    return None


def _form(
    lead: str, middle: str, tail: str, again: str, end: str, answer: str
) -> Form | None:
    """Return a form whose first call begins with `lead`, of which the opening mark is a part."""
    opening = _opening(lead, answer)
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
    )


def _opening(lead: str, answer: str) -> str:
    """Return what tells a call from an answer: a mark, the first key of JSON, or words."""
    for mark in _OPENING.findall(lead):
        if mark not in answer and "think" not in mark.lower():
            return str(mark)
    start = _JSON_OPENING.match(lead) or _WORDS.match(lead)
    return str(start[1]) if start else ""


def _numbered(first: str, second: str) -> tuple[str, str]:
    """Return two texts with `NUMBER` for what counts from one to the other, at equal ends."""
    parts = [re.split(r"([0-9]+)", text)[::-1] for text in (first, second)]
    for i, (a, b) in enumerate(zip(*parts, strict=False)):
        if a.isdigit() and b.isdigit() and int(b) == int(a) + 1:
            parts[0][i] = parts[1][i] = NUMBER
        elif a != b:
            break
    return "".join(parts[0][::-1]), "".join(parts[1][::-1])


def _common(a: str, b: str) -> int:
    """Return how many characters two texts share at their beginnings."""
    differ = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


def _whole(text: str, n: int) -> int:
    """Return the place at or before `n` that cuts no mark."""
    cut = (mark.start() for mark in _OPENING.finditer(text) if mark.start() < n < mark.end())
    return next(cut, n)
