"""What kinds of values a schema wants as a member of arguments, and which value a text means."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ALL = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
_DEPTH = 16

PYTHON = {"true": "True", "false": "False", "null": "None"}
"""What Python calls the words of JSON; models that read templates write both."""

_JSON = {python: word for word, python in PYTHON.items()}


@dataclass(frozen=True)
class Kinds:
    """JSON's types, one of which a value has."""

    types: frozenset[str] = _ALL

    @property
    def is_text(self) -> bool:
        """Whether a value is a text, whatever it looks like."""
        return self.types == {"string"}

    def only(self, kind: str, is_it: bool) -> "Kinds":
        """Return those that are left where it is known whether a value is of a kind."""
        return Kinds(frozenset({kind}) if is_it else self.types - {kind} or _ALL - {kind})

    def restored(self, text: str) -> Any:
        """Return the value that a text means."""
        if self.is_text:
            return text
        try:
            value = json.loads(_JSON.get(text.strip(), text))
        except (ValueError, RecursionError):
            return text
        return value if self.types & _types_of(value) or "string" not in self.types else text


def _types_of(value: Any) -> frozenset[str]:
    if value is None or isinstance(value, bool):
        return frozenset({"null" if value is None else "boolean"})
    if isinstance(value, int | float):
        is_whole = isinstance(value, int) or value.is_integer()
        return frozenset({"number", "integer"} if is_whole else {"number"})
    if isinstance(value, str):
        return frozenset({"string"})
    return frozenset({"array" if isinstance(value, list) else "object"})


def of_object(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of arguments with its references followed, as far as the first object."""
    first = next(alternatives(schema, schema), schema)  # of no alternatives, there is none
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return {**first, **shared} if isinstance(first, Mapping) else schema


def kinds_of(schema: Mapping[str, Any], key: str) -> Kinds:
    """Return the kinds of the member of this key, in arguments that follow a schema."""
    return Kinds(_kinds(member_schema(schema, key), schema, _DEPTH))


def member_schema(schema: Mapping[str, Any], key: str) -> Any:
    """Return the schema of the member of this key; True where any value may be."""
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return properties[key]
    return schema.get("additionalProperties", True)


def alternatives(part: Any, root: Mapping[str, Any], depth: int = _DEPTH) -> Iterator[Any]:
    """Yield the schemas of which a value follows one; of those with a reference, what it is to."""
    if not isinstance(part, Mapping) or not depth:
        yield part
        return
    if (to := _referred(part, root)) is not None:
        yield from alternatives(to, root, depth - 1)
        return
    for keyword in ("anyOf", "oneOf"):
        if isinstance(part.get(keyword), list):
            for each in part[keyword]:
                yield from alternatives(each, root, depth - 1)
            return
    of = part.get("allOf")
    if isinstance(of, list) and len(of) == 1 and "type" not in part:
        yield from alternatives(of[0], root, depth - 1)
        return
    types = part.get("type")
    if isinstance(types, list):
        yield from ({**part, "type": one} for one in types)
        return
    yield part


def _referred(part: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    reference = part.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    at: Any = root
    for step in reference[2:].split("/"):
        at = at.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(at, Mapping) else None
    return at


def _kinds(part: Any, root: Mapping[str, Any], depth: int) -> frozenset[str]:
    found: set[str] = set()
    for each in alternatives(part, root, depth):
        if not isinstance(each, Mapping):
            return _ALL
        if "type" in each:
            found.add(str(each["type"]))
        elif "const" in each or isinstance(each.get("enum"), list):
            values = [each["const"]] if "const" in each else each["enum"]
            found |= frozenset().union(*map(_types_of, values))
        else:
            return _ALL
    return frozenset(found & _ALL) or _ALL
