"""The form that a template writes calls in, read from what it makes of a planted chat.

An assistant's turn with calls of known names and arguments is rendered, and what stands around them
is the form. No mark in the template's source is looked for: a template may hold marks that it never
writes. A template that shows its tools and drops calls may tell the model how to write them; the
forms that are told so are known by their marks.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from steerplug.chat.calls.cutting import ANSWER, PlantedReply, numbered, whole
from steerplug.chat.calls.form import (
    BARE,
    CHANNEL,
    FUNCTION,
    LIQUID,
    LISTED,
    PIPED,
    TAGGED,
    Form,
)
from steerplug.chat.calls.plain import Message
from steerplug.chat.calls.planted_members import MEMBERED, SIGN, read_members
from steerplug.chat.common import n_common
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
_CODE = "<|python_tag|>"
_USER: Message = {"role": "user", "content": "Where?"}


def find_form(
    render: Render, is_end: Callable[[str], bool], is_token: Callable[[str], bool]
) -> Form | None:
    """Return the form that a template writes calls in.

    None where it shows no calls and tells of none, or where what it writes is not to be read back:
    arguments that are neither a JSON object nor one member after the other, or calls that nothing
    tells from text.

    Args:
        render: writes chats by the template.
        is_end: whether a mark ends a turn of this model.
        is_token: whether a mark is a token of its own.
    """
    reply = _shown(render, is_end, _CALLS, "northern")
    if reply is None:
        return _told(_rendered(render, [_USER]) or "", is_token)
    form = _read(reply)
    if form is None and (reply := _shown(render, is_end, MEMBERED, SIGN)):
        form = read_members(reply)
    return form and _with_habits(form, is_token)


def _shown(
    render: Render, is_end: Callable[[str], bool], calls: Sequence[ToolCall], sign: str
) -> PlantedReply | None:
    """Return a turn with calls in the first chat that shows them, as their sign tells."""
    for chat, answered in _chats(calls):
        text = _rendered(render, chat)
        if text is not None and sign in text:
            ids = [call.id for call in calls]
            return PlantedReply(text, _rendered(render, answered) or "", ids, is_end)
    return None


def _with_habits(form: Form, is_token: Callable[[str], bool]) -> Form:
    """Return a form with others in which the models write that read its template."""
    if form.opening == BARE.opening and is_token(_CODE):  # Llama 3.1, as if the call were code
        return replace(form, also=(replace(form, opening=_CODE, head='{"name": "', first=False),))
    if form.opening and CHANNEL.opening.endswith(form.opening):
        return replace(form, also=(CHANNEL,))
    return form


def _chats(
    calls: Sequence[ToolCall],
) -> Iterator[tuple[list[Message], list[Message]]]:
    """Yield chats with calls, each with one where an answer is in their place.

    Templates differ in what they refuse or leave out: several calls in a turn, a turn without text,
    a turn that nothing follows.
    """
    for is_last, made, content in product((True, False), (calls, calls[:1]), ("", None)):
        turn: Message = {"role": "assistant", "content": content, "tool_calls": made}
        results = [
            {"role": "tool", "content": "Here.", "tool_call_id": call.id, "name": call.name}
            for call in made
        ]
        answer: Message = {"role": "assistant", "content": ANSWER}
        yield (
            [_USER, turn, *([] if is_last else [*results, _USER])],
            [_USER, answer, *([] if is_last else [_USER])],
        )


def _rendered(render: Render, messages: Sequence[Message]) -> str | None:
    try:
        return render(messages, _TOOLS)
    except SteerplugError:
        return None


def _told(text: str, is_token: Callable[[str], bool]) -> Form | None:
    """Return the form that the words of a template ask for, or the tokens of its model."""
    if "find_kestrel" not in text or "<parameter=" in text or "<arg_key>" in text:
        return None
    known = [form for form in (TAGGED, PIPED, LISTED, FUNCTION) if form.opening in text]
    return next(iter(known), LIQUID if is_token(LIQUID.opening) else None)


def _read(reply: PlantedReply) -> Form | None:
    """Return the form of calls whose arguments are JSON objects, if they can be read back."""
    first = _around(reply.text, _CALLS[0])
    if first is None or reply.end(first[0], reply.after[:1]) >= 0:
        return None
    lead, middle, rest = first
    second = _around(rest, _CALLS[1])
    if second is None or reply.end(second[0]) >= 0:
        return reply.form(lead, middle, reply.turn(rest))
    between, other, rest = second
    lead, between = numbered(lead, between)
    middle, other = numbered(middle, other)
    if middle != other:
        return None
    end = reply.turn(rest)
    n = whole(between, n_common(between, end))
    return reply.form(lead, middle, between[:n], between[n:], end[n:])


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
