"""Replies that are a call as a whole, in whatever form their template asks for.

Small models, and those that were trained on code, answer with the JSON of a call, bare or in a
fence, and without the marks of their template. Such a reply is a call where it begins with the name
of a tool that may be called and with its arguments; from there on it is held to them. Any other
JSON is text.
"""

from itertools import product

from steerplug.chat.calls.form import (
    ARGUMENTS,
    ID,
    LANGUAGE,
    NUMBER,
    PYTHON,
    SPACE,
    Form,
    pattern,
)
from steerplug.chat.tool import AUTO, Tools
from steerplug.engine.openings import Beginning, Mark, Opening

_NAME = f'{SPACE}"name"{SPACE}:{SPACE}"'
_MIDDLE = f'"{SPACE},{SPACE}"{ARGUMENTS}"{SPACE}:{SPACE}'
_NEXT, _NEXT_LISTED = f"{SPACE}{{{_NAME}", f"{SPACE},{SPACE}{{{_NAME}"
_END = f"{SPACE}}}"

ANSWERS = (
    Form("{", _NAME, _MIDDLE, _END, again=_NEXT, first=True),
    Form("[", _NEXT, _MIDDLE, _END, again=_NEXT_LISTED, end=f"{SPACE}]", first=True),
    Form("```", LANGUAGE + _NEXT, _MIDDLE, _END, again=_NEXT, end=f"{SPACE}```", first=True),
    Form(
        "```", f"{LANGUAGE}{SPACE}[{_NEXT}", _MIDDLE, _END, again=_NEXT_LISTED,
        end=f"{SPACE}]{SPACE}```", first=True,
    ),
    Form("[", "", "(", ")", again=", ", end="]", first=True, members=PYTHON),
)  # fmt: skip
"""A call in JSON, or several: bare, as a list, and either in a fence; a list of calls in Python."""


Way = tuple[Form, Opening]
"""A form, and what tells a call in it from text."""


def ways(form: Form, tools: Tools, *, has_format: bool = False) -> list[Way]:
    """Return the ways in which a reply may write its calls, the first as its template does.

    Args:
        form: how its template writes them.
        tools: what may be called.
        has_format: whether a reply without calls follows a format, which JSON then is.
    """
    if not tools or tools.choice != AUTO:
        return [(each, Mark(each.opening, each.first)) for each in (form, *form.also)]
    others = () if has_format else (*form.also, *ANSWERS)
    return [(each, _opening(each, tools)) for each in (form, *others)]


def _opening(form: Form, tools: Tools) -> Opening:
    """Return what tells a call from an answer: where that is JSON, it takes the name of a tool."""
    begin = form.opening + form.head
    is_json = form.first and form.opening[0] in "{[`"
    if not is_json or ID in begin or NUMBER in begin:
        return Mark(form.opening, form.first)
    names = tools.callable_names
    whole = f"{pattern(begin)}(?:{'|'.join(map(pattern, names))}){pattern(form.middle)}"
    said = (_said(begin + name + form.middle) for name in names)
    return Beginning(whole, tuple(text for texts in said for text in texts))


def _said(text: str) -> list[str]:
    """Return all that a text with places may say, without white space."""
    places = {LANGUAGE: ("json", ""), ARGUMENTS: ("arguments", "parameters"), SPACE: ("",)}
    parts = [places.get(letter, ("".join(letter.split()),)) for letter in text]
    return ["".join(part) for part in product(*parts)]
