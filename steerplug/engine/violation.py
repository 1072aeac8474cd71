"""What a finished reply breaks of its schema, where the grammar could not hold it to all of that.

A reply is checked only for what `loosen` left out.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerplug.engine.loosen import loosened
from steerplug.engine.validator import errors

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError


def violation(schema: Mapping[str, Any], text: str, *, wholly: bool = False) -> str | None:
    """Return how a finished reply breaks its schema, if it does; None also if it is no whole JSON.

    Args:
        schema: what was asked for, and could be followed as far as `loosened` goes.
        text: the reply.
        wholly: whether to look for all that breaks the schema, as if a grammar held it to nothing.
    """
    loose = loosened(schema)
    if not (loose.left_out or wholly):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    held = {} if wholly else dict(loose.schema)
    known = {_sentence(error) for error in errors(json.dumps(held), value)}
    broken = (_sentence(error) for error in errors(json.dumps(dict(schema)), value))
    return next((sentence for sentence in broken if sentence not in known), None)


def _sentence(error: "ValidationError") -> str:
    at = "".join(f"[{part}]" if isinstance(part, int) else f".{part}"
                 for part in error.instance_path)  # fmt: skip
    return f"at ${at} ({' '.join(error.message.split())[:200]})"
