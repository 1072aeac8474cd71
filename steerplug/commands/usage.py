"""What typer complains of in the words of a command line, as one sentence with value and cure.

Typer's exceptions are told by what they can do: their classes move between its versions. Newer ones
read values by pydantic, whose sentences leave out the value.
"""

from typing import Any

from steerplug.errors import nearest

_WORDS = {
    "int_parsing": "is no integer",
    "float_parsing": "is no number",
    "less_than_equal": "is above {le:g}",
    "greater_than_equal": "is below {ge:g}",
}
"""What is wrong with a value, by pydantic's name for it."""


def usage(error: Exception) -> str:
    """Return the sentence.

    Raises:
        Exception: `error`, where it is no complaint of typer's.
    """
    describe = getattr(error, "format_message", None)
    if describe is None:
        raise error

    from steerplug.engine.unknown_settings import sentence

    option = getattr(error, "option_name", "")
    if hint := sentence(option):
        return hint
    if hasattr(error, "possibilities") and option:
        complaint = f"there is no option `{option}`{nearest(option, error.possibilities or [])}"
    else:
        complaint = " ".join(describe().split())
        message, why = getattr(error, "message", ""), _why(error.__context__)
        complaint = complaint.replace(message, why) if message and why else complaint
    complaint = complaint.rstrip(".")
    if complaint.endswith("is not readable"):
        return f"{complaint[:1].lower()}{complaint[1:]}; check its permissions."
    context: Any = getattr(error, "ctx", None)
    command = context.command_path if context else "steerplug"
    see = " See" if complaint.endswith("?") else "; see"
    return f"{complaint[:1].lower()}{complaint[1:]}{see} `{command} --help`."


def _why(found: Any) -> str:
    """Return what pydantic found wrong, with the value; nothing where it was not asked."""
    if not hasattr(found, "errors"):
        return ""
    problem = found.errors()[0]
    words = _WORDS.get(problem["type"])
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if words is None:
        return f"{problem['input']!r}: {problem['msg']}"
    return f"{problem['input']!r} {words.format(**problem.get('ctx', {}))}"
