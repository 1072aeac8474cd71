"""A validator of JSON Schema that knows the whole standard, for what grammars cannot express.

It bounds what a pattern and a nested value may cost, since both may come from a stranger, and
fetches nothing.
"""

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError, Validator

_MOST_STEPS = 100_000


def errors(schema: str, value: object) -> "list[ValidationError]":
    """Return what a value breaks of a schema, as far as that can be found out.

    Nothing is said of what is nested too deeply, and of a pattern that costs too much.

    Args:
        schema: a JSON Schema as text, checked.
        value: JSON values.
    """
    from jsonschema_rs import ValidationErrorKind

    too_costly = ValidationErrorKind.BacktrackLimitExceeded
    try:
        broken = list(_validator(schema).iter_errors(value))
    except ValueError:
        return []
    return [error for error in broken if not isinstance(error.kind, too_costly)]


def check_schema(schema: str) -> None:
    """Refuse what is no JSON Schema.

    Raises:
        ValueError: it is none, one of its patterns is broken, or it refers to what is not there.
    """
    _validator(schema)


@lru_cache(1024)
def matches(pattern: str, text: str) -> bool:
    """Whether a pattern of a schema is found in a text; not if it is broken."""
    try:
        return _validator(json.dumps({"pattern": pattern})).is_valid(text)
    except ValueError:
        return False


@lru_cache(256)
def _validator(text: str) -> "Validator":
    """Return the validator of a schema, by the draft that it names or that it is written for."""
    import jsonschema_rs as validators

    schema = json.loads(text)
    drafts = [validators.Draft202012Validator, validators.Draft7Validator,
              validators.Draft4Validator]  # fmt: skip
    if "$schema" in schema:
        drafts = [validators.validator_cls_for(schema)]
    elif '"dependencies"' in text:
        drafts = drafts[1:]
    problem: ValueError | None = None
    for draft in drafts:
        try:
            return draft(
                schema, validate_formats=False, retriever=_fetch_nothing,
                pattern_options=validators.FancyRegexOptions(backtrack_limit=_MOST_STEPS),
            )  # fmt: skip
        except (validators.ValidationError, ValueError) as error:
            problem = problem or ValueError(str(error).partition("\n")[0])
    assert problem is not None
    raise problem


def _fetch_nothing(uri: str) -> Any:
    raise ValueError(f"{uri} is not fetched")
