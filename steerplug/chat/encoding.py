"""Values as JSON text, those too that JSON has no form for, such as dates in a call's arguments.

They are written as pydantic writes them: a date or a UUID in its ISO form, a Decimal as text, an
enum by its value, a set as a list, a dataclass or a model by its fields. What pydantic does not
know is written as its list of numbers (arrays) or as its text.
"""

import json
from typing import Any, Literal

from pydantic_core import PydanticSerializationError, to_jsonable_python

from steerplug.errors import RequestError


def json_text(value: object, name: str) -> str:
    """Return a value as JSON text.

    Args:
        value: any value.
        name: what errors call it.

    Raises:
        RequestError: it holds itself, or is nested too deeply.
    """
    try:
        return json.dumps(_jsonable(value), ensure_ascii=False)
    except (ValueError, RecursionError, PydanticSerializationError) as error:
        raise RequestError(
            f"{name} cannot be written as JSON ({' '.join(str(error).split())[:200]}); send plain "
            "values."
        ) from None


def is_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _jsonable(value: object) -> Any:
    try:
        return _encoded(value, "utf8")
    except ValueError:  # bytes that are no text; what holds itself fails again
        return _encoded(value, "base64")


def _encoded(value: object, bytes_mode: Literal["utf8", "base64"]) -> Any:
    return to_jsonable_python(
        value, bytes_mode=bytes_mode, inf_nan_mode="null", fallback=_by_content
    )


def _by_content(value: Any) -> Any:
    """Return an array or a number of NumPy's or torch's as Python's, and else a text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
