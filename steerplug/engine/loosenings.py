"""Changes that make a JSON Schema one that llguidance can express, and never a stricter one.

Some keywords it is known to lack; which patterns, formats and counts it can express, it is asked by
trying; and some fail only together with others, which are changed last and only if need be.
"""

import json
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

from steerplug.engine.deep_stack import on_deep_stack
from steerplug.engine.schema_walk import Change, Loosening, Node
from steerplug.engine.validator import matches

_UNHELD = (
    "not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems",
    "propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems",
    "unevaluatedProperties", "$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor",
)  # fmt: skip
_NOTHING_ALONE = (  # what other keywords ask for, or refer to
    "then", "else", "minContains", "maxContains", "$dynamicAnchor", "$recursiveAnchor",
)  # fmt: skip
_IN_PLACE = (
    "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies",
    "$ref", "$dynamicRef", "$recursiveRef", "patternProperties",
)  # fmt: skip
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_ANNOTATIONS = ("title", "description", "type", "default", "examples", "$comment")


# What llguidance is known to lack


def _without_unheld(node: Node, pointer: str, loosening: Loosening) -> Node:
    node = _with_named_keys(_closed_at_once(node), loosening.root)
    for keyword in _UNHELD:
        if keyword in node and _asks_nothing(node, keyword):
            del node[keyword]
        loosening.leave_out(node, keyword, pointer)
    return node


def _asks_nothing(node: Node, keyword: str) -> bool:
    value = node[keyword]
    match keyword:
        case "not" | "uniqueItems":
            return value is False
        case "if":
            return "then" not in node and "else" not in node
        case "contains" | "$dynamicRef" | "$recursiveRef":
            return False
    return keyword in _NOTHING_ALONE or value is True or value == {}


def _closed_at_once(node: Node) -> Node:
    """Return a schema with what is `unevaluated` said as `additional`, where that is the same."""
    if any(keyword in node for keyword in _IN_PLACE if keyword != "patternProperties"):
        return node
    names = {"unevaluatedProperties": "additionalProperties"}
    if "contains" not in node and not isinstance(node.get("items"), list):
        names["unevaluatedItems"] = "items"
    return {
        name if (name := names.get(key)) and name not in node else key: value
        for key, value in node.items()
    }


def _with_named_keys(node: Node, root: Node) -> Node:
    """Return a map of values by name with the names said as properties, or by their pattern."""
    names = _resolved(node.get("propertyNames"), root)
    if names is None or "properties" in node or "patternProperties" in node:
        return node
    asked = {key: value for key, value in names.items() if key not in _ANNOTATIONS}
    values = node.get("additionalProperties", True)
    rest = {key: node[key] for key in node if key not in ("propertyNames", "additionalProperties")}
    match asked:
        case {"enum": list(keys)} if len(asked) == 1 and all(isinstance(k, str) for k in keys):
            named = {"properties": dict.fromkeys(keys, values)}
        case {"pattern": str(pattern)} if len(asked) == 1 and _holds_pattern(pattern):
            named = {"patternProperties": {pattern: values}}
        case _:
            return node
    return {**rest, **named, "additionalProperties": False}


def _resolved(node: object, root: Node) -> Node | None:
    """Return a schema, or the one of `$defs` that it refers to."""
    if not isinstance(node, dict):
        return None
    ref = node.get("$ref")
    if len(node) == 1 and isinstance(ref, str) and ref.startswith("#/$defs/"):
        named = root.get("$defs", {}).get(ref.removeprefix("#/$defs/"))
        return named if isinstance(named, dict) else None
    return node


def _with_whole_counts(node: Node, _: str, __: Loosening) -> Node:
    """Return a schema with 3.0 said as 3."""
    return {
        key: int(value) if key in _COUNTS and isinstance(value, float) and value.is_integer()
        else value
        for key, value in node.items()
    }


# What llguidance is asked to try


def _without_foreign_patterns(node: Node, pointer: str, loosening: Loosening) -> Node:
    if isinstance(pattern := node.get("pattern"), str) and not _holds_pattern(pattern):
        loosening.leave_out(node, "pattern", pointer)
    return node


def _without_foreign_names(node: Node, _: str, __: Loosening) -> Node:
    """Return a schema without a format or a dialect that llguidance has not heard of."""
    for keyword in ("format", "$schema"):
        if isinstance(name := node.get(keyword), str) and not _holds(
            json.dumps({"type": "string", keyword: name})
        ):
            del node[keyword]
    return node


def _without_foreign_key_patterns(node: Node, pointer: str, loosening: Loosening) -> Node:
    patterns = node.get("patternProperties")
    if not isinstance(patterns, dict):
        return node
    bare = {"type": "object", "patternProperties": dict.fromkeys(patterns, True)}
    if not _holds(json.dumps(bare)):
        _leave_out_key_patterns(node, pointer, loosening)
    elif isinstance(properties := node.get("properties"), dict):
        node["properties"] = {
            key: _also(value, [patterns[regex] for regex in patterns if matches(regex, key)])
            for key, value in properties.items()
        }
    return node


def _also(value: object, others: list[Any]) -> object:
    return {"allOf": [value, *others]} if others else value


def _leave_out_key_patterns(node: Node, pointer: str, loosening: Loosening) -> Node:
    """Leave out patterns of keys, and what else would take their keys for further ones."""
    if "patternProperties" in node:
        node.pop("additionalProperties", None)
        loosening.leave_out(node, "patternProperties", pointer)
    return node


def _with_counted_keys(node: Node, pointer: str, loosening: Loosening) -> Node:
    for keyword in ("minProperties", "maxProperties"):
        if keyword in node and not _holds(json.dumps(_counting(node))):
            loosening.leave_out(node, keyword, pointer)
    return node


def _counting(node: Node) -> Node:
    """Return what of an object counts keys."""
    counting = ("required", "minProperties", "maxProperties")
    kept: Node = {key: node[key] for key in counting if key in node}
    properties = node.get("properties")
    named = dict.fromkeys(properties, True) if isinstance(properties, dict) else {}
    return {"type": "object", "properties": named, **kept}


def _holds_pattern(pattern: str) -> bool:
    return _holds(json.dumps({"type": "string", "pattern": pattern}))


@lru_cache(1024)
def _holds(schema: str) -> bool:
    """Whether a schema can be expressed, or nothing follows it, which is not for want of words."""
    problem = problem_of(json.loads(schema))
    return problem is None or is_impossible(problem)


def problem_of(schema: Node) -> str | None:
    """Return why llguidance does not take a schema, if so."""
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    return on_deep_stack(lambda: str(LLMatcher.validate_grammar(grammar)), grammar) or None


def is_impossible(problem: str) -> bool:
    """Whether llguidance does not take a schema because nothing follows it."""
    return problem.startswith("Unsatisfiable")


# What only fails together


def _with_any_of(node: Node, pointer: str, loosening: Loosening) -> Node:
    """Return a schema with `oneOf` said as `anyOf`."""
    if "oneOf" not in node:
        return node
    loosening.left_out.append(f"`oneOf` at {pointer}")
    if "anyOf" not in node:
        return {"anyOf" if key == "oneOf" else key: value for key, value in node.items()}
    options = node.pop("oneOf")
    return {**node, "allOf": [*node.get("allOf", ()), {"anyOf": options}]}


def _without(*keywords: str) -> Change:
    def change(node: Node, pointer: str, loosening: Loosening) -> Node:
        for keyword in keywords:
            loosening.leave_out(node, keyword, pointer)
        return node

    return change


def _without_joins(node: Node, pointer: str, loosening: Loosening) -> Node:
    """Return a schema that is not the intersection of several, as far as these are schemas."""
    if isinstance(node.get("allOf"), list) and len(node["allOf"]) > 1:
        loosening.left_out.append(f"`allOf` at {pointer}")
        node["allOf"] = node["allOf"][:1]
    beside = set(node) - {*_ANNOTATIONS, "$defs", "definitions", "$ref"}
    if "$ref" in node and beside:
        loosening.leave_out(node, "$ref", pointer)
    return node


def _without_lost_refs(node: Node, pointer: str, loosening: Loosening) -> Node:
    """Return a schema that does not refer to what was left out."""
    ref = node.get("$ref")
    if isinstance(ref, str) and any(f"/{keyword}" in ref for keyword in _UNHELD):
        loosening.leave_out(node, "$ref", pointer)
    return node


ALWAYS: tuple[Change, ...] = (
    _without_unheld, _with_whole_counts, _without_foreign_names, _without_foreign_patterns,
    _without_foreign_key_patterns, _with_counted_keys,
)  # fmt: skip
"""What is changed in every schema."""

IF_NEED_BE: tuple[Change, ...] = (
    _with_any_of, _without("minProperties", "maxProperties"), _leave_out_key_patterns,
    _without("multipleOf"), _without(*_BOUNDS), _without_lost_refs, _without_joins,
)  # fmt: skip
"""What is changed besides, one after the other, until llguidance takes the schema."""
