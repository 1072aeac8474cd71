"""Asserts of promptfoo that are checks of a preset, and why the others are none."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from steerplug.files.yaml_file import printable
from steerplug.preset.checks import Check

WHOLE_WORDS = "compared as whole words, whatever their case"
_ONE = {"contains": "includes", "icontains": "includes", "starts-with": "starts_with",
        "not-contains": "excludes", "not-icontains": "excludes"}  # fmt: skip
_ANY = {"contains-any": "includes", "icontains-any": "includes",
        "not-contains-any": "excludes", "not-icontains-any": "excludes"}  # fmt: skip
_ALL = ("contains-all", "icontains-all")
_CODE = ("javascript", "python", "ruby", "webhook", "regex", "equals")
_WHY_CODE = {"regex": "a preset's checks have no patterns", "equals": "one reply to one question"}
CHANGED = "it looks at a reply that a `transform` changed"
_PHRASE = re.compile(r'\s*"[^"]*"\s*(?=,|\Z)|[^,]+')
_CHECK: TypeAdapter[Check] = TypeAdapter(Check)


def checks_of(one: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], str]:
    """Return an assert as checks, and else why it is none.

    Args:
        one: the assert, with `type` and mostly `value`.
    """
    kind, value = str(one.get("type", "")), one.get("value")
    if one.get("transform"):
        return [], CHANGED
    if one.get("weight") == 0:
        return [], "it counts for nothing (`weight: 0`)"
    if is_template(value):
        return [], "its value differs from test to test, or is in another file"
    if kind == "is-json":
        return [{"kind": "json"}], ""
    if kind == "word-count":
        return _in_range(value)
    if kind in _ONE:
        return _valid([{"kind": _ONE[kind], "phrases": [value]}])
    if kind in _ANY:
        return _valid([{"kind": _ANY[kind], "phrases": _listed(value)}])
    if kind in _ALL:
        return _valid([{"kind": "includes", "phrases": [phrase]} for phrase in _listed(value)])
    return [], _WHY_CODE.get(kind, "a preset's checks have no counterpart; no code and no judge")


def is_template(value: object) -> bool:
    """Say whether a value holds a variable, or is in another file."""
    texts = value if isinstance(value, list) else [value]
    return any(
        isinstance(text, str) and ("{{" in text or text.startswith("file://")) for text in texts
    )


def _listed(value: object) -> list[Any]:
    """Return a list, which promptfoo lets one write as a text with commas and quotes as well."""
    if isinstance(value, str):
        return [phrase.strip().strip('"') for phrase in _PHRASE.findall(value)]
    return value if isinstance(value, list) else [value]


def _in_range(value: object) -> tuple[list[Mapping[str, Any]], str]:
    bounds = value if isinstance(value, Mapping) else {"min": value, "max": value}
    return _valid([
        {"kind": f"{end}_words", "count": bounds[end]} for end in ("min", "max") if end in bounds
    ])  # fmt: skip


def _valid(checks: list[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str]:
    as_texts = [
        {**check, "phrases": list(map(_phrase, check["phrases"]))} if "phrases" in check else check
        for check in checks
    ]  # fmt: skip
    try:
        for check in as_texts:
            _CHECK.validate_python(check)
    except ValidationError:
        return [], "its value is none that a preset's check takes"
    return (as_texts, "") if as_texts else ([], "it asserts nothing")


def _phrase(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) else value


def named(one: Mapping[str, Any]) -> str:
    """Return an assert in short."""
    value = one.get("value")
    shown = "" if value is None or isinstance(value, Mapping) else f" {printable(str(value))}"
    return f"{printable(str(one.get('type', '?')))}{shown}"
