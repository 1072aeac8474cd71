"""The forms in which models write tool calls, told from the text of their chat templates.

A reply with calls is text, then

    opening head NAME middle ARGUMENTS tail (again NAME middle ARGUMENTS tail)* end

where everything but the names and arguments is fixed. `opening` is what tells a call from text.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Form:
    """One way to write calls.

    Args:
        opening: the mark that begins the first call.
        head: what stands between the mark and the name.
        middle: what stands between a name and its arguments.
        tail: what ends a call.
        again: what stands between the end of a call and the name of the next; empty where a reply
            holds one call.
        end: what ends the last call of a reply.
        closing: the mark within the tail that ends a call; empty where the turn's end does.
        first: whether a reply with calls begins with them.
    """

    opening: str
    head: str
    middle: str
    tail: str
    again: str = ""
    end: str = ""
    closing: str = ""
    first: bool = False


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

_OTHERS = ("<parameter=", "<arg_key>")  # calls whose arguments are not JSON


def find_form(template: str) -> Form | None:
    """Return the form that a chat template writes calls in; None if it knows no tools or another.

    Args:
        template: the Jinja text of the template.
    """
    if "tools" not in template or any(other in template for other in _OTHERS):
        return None
    if LISTED.opening in template:
        spaced = f"{LISTED.opening} [" in template
        return replace(LISTED, head=f" {LISTED.head}") if spaced else LISTED
    if TAGGED.opening in template and "arguments" in template:
        return TAGGED
    if FUNCTION.opening in template:
        return FUNCTION
    if "parameters" in template and ("<|python_tag|>" in template or '{"name": ' in template):
        return BARE
    return None
