"""The forms in which models write tool calls.

A reply with calls is text, then

    opening head NAME middle ARGUMENTS tail (again NAME middle ARGUMENTS tail)* end

where everything but the names and arguments is fixed, save for the places of an identifier and of a
number. `opening` is what tells a call from text. Which form a model uses is found out by `planted`.
"""

import re
from dataclasses import dataclass

from steerplug.chat.calls.members import Members

ID, NUMBER = "\ue010", "\ue011"
"""Where a form holds an identifier that the model makes up, and where the number of a call."""

SPACE, LANGUAGE, ARGUMENTS = "\ue012", "\ue013", "\ue014"
"""Where a form holds any white space, what a fence says of its language, and the key of arguments.
"""

PLACES = {
    ID: "[A-Za-z0-9]{9}",  # Mistral's templates demand nine letters
    NUMBER: "[0-9]{1,3}",
    SPACE: r"[ \n\r\t]{0,40}",
    LANGUAGE: "(?:json)?",
    ARGUMENTS: "(?:arguments|parameters)",
}
_PLACE = f"([{''.join(PLACES)}])"


@dataclass(frozen=True)
class Form:
    """One way to write calls.

    Args:
        opening: the mark that begins the first call; it holds no places.
        head: what stands between the mark and the name.
        middle: what stands between a name and its arguments; empty where they follow at once.
        tail: what ends a call.
        again: what stands between the end of a call and the name of the next; empty where a reply
            holds one call.
        end: what ends the last call of a reply.
        closing: the mark within the tail or the end that ends a call; empty where the turn's end
            does.
        first: whether a reply with calls begins with them.
        members: how arguments are written that are no JSON object.
        also: other forms in which the same models write.
    """

    opening: str
    head: str
    middle: str
    tail: str
    again: str = ""
    end: str = ""
    closing: str = ""
    first: bool = False
    members: Members | None = None
    also: "tuple[Form, ...]" = ()


TAGGED = Form(
    opening="<tool_call>",
    head='\n{"name": "',
    middle='", "arguments": ',
    tail="}\n</tool_call>",
    again='\n<tool_call>\n{"name": "',
    closing="</tool_call>",
)
"""Hermes and Qwen; also what models are asked for whose template knows no tools."""

BARE = Form(
    opening='{"name"', head=': "', middle='", "parameters": ', tail="}", first=True
)
"""Llama 3."""

LISTED = Form(
    opening="[TOOL_CALLS]",
    head='[{"name": "',
    middle='", "arguments": ',
    tail="}",
    again=', {"name": "',
    end="]",
)
"""Mistral."""

FUNCTION = Form(
    opening="<function=",
    head="",
    middle=">",
    tail="</function>",
    again="<function=",
    closing="</function>",
)
"""Functionary and its like."""

PIPED = Form(
    opening="<|tool_call|>",
    head='[{"name": "',
    middle='", "arguments": ',
    tail="}",
    again=', {"name": "',
    end="]",
)
"""Granite 3, whose template tells of the mark and shows no calls."""


PYTHON = Members(key="", text="=", text_end="", value="=", value_end="", between=", ",
                 is_quoted=True)  # fmt: skip
"""Arguments as Python has them."""

LIQUID = Form(
    opening="<|tool_call_start|>",
    head="[",
    middle="(",
    tail=")",
    again=", ",
    end="]<|tool_call_end|>",
    closing="<|tool_call_end|>",
    members=PYTHON,
)
"""LFM2, whose templates tell of tools and show no calls."""

CHANNEL = Form(
    opening="commentary to=functions.", head="", middle=" <|constrain|>json<|message|>", tail=""
)
"""gpt-oss, which names the recipient behind the channel where its template has it before."""


MARK = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]{2,}\]")
"""What marks look like, whether or not they are tokens of their own."""


def pattern(text: str) -> str:
    """Return the regular expression of a fixed text in a form, with a group for its identifier."""
    known = "".join(PLACES.get(part) or re.escape(part) for part in re.split(_PLACE, text))
    return known.replace(PLACES[ID], f"({PLACES[ID]})")


def name_end(form: Form) -> str:
    """Return the regular expression of what shows that a name is whole."""
    return pattern(re.split(_PLACE, form.middle)[0]) or _begin_of_arguments(form)


def until_arguments(form: Form) -> str:
    """Return the regular expression of what stands between a name and its arguments."""
    return pattern(form.middle) or _begin_of_arguments(form)


def _begin_of_arguments(form: Form) -> str:
    if form.members is None:
        return r"(?=\{)"
    return f"(?={re.escape(form.members.key)}|{pattern(form.tail)})"


def closers(form: Form) -> tuple[str, ...]:
    """Return the texts that bring calls nearer to their end."""
    members = form.members
    own = (members.text_end, members.value_end, form.tail) if members else ()
    fixed = re.split(_PLACE, form.end)
    return tuple(part for part in (*own, *fixed) if part and part not in PLACES)


def filled(text: str, call_id: str, number: int) -> str:
    """Return a fixed text in a form with its places filled."""
    said = {ID: call_id, NUMBER: str(number), LANGUAGE: "json", ARGUMENTS: "arguments", SPACE: ""}
    return "".join(said.get(letter, letter) for letter in text)
