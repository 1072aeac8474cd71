"""The JSON Schema (draft-07) of a preset, for editors; generated from the models.

`python -m steerplug.preset.schema` rewrites `preset-v1.schema.json`, which ships with the package.
A preset uses it through its first line: `# yaml-language-server: $schema=<path or URL>`.
"""

import json
from pathlib import Path
from typing import Any

from steerplug.preset.methods import CONTRAST_ONLY, SCALED, TEACHER_ONLY
from steerplug.preset.preset import Preset

SCHEMA_FILE = Path(__file__).parents[1] / "preset-v1.schema.json"


def make_schema() -> dict[str, Any]:
    """Return the schema, with the rules between keys that draft-07 can say."""
    generated = Preset.model_json_schema(ref_template="#/definitions/{model}")
    schema = _as_draft_07(generated)
    definitions = schema.pop("$defs")
    definitions["Teacher"]["anyOf"] = [
        {"required": ["system"]},
        {"required": ["examples"], "properties": {"examples": {"minItems": 1}}},
    ]
    definitions["Decoding"]["anyOf"] = [
        {"required": [name]} for name in ("format", "unsteered", "steered")
    ]
    definitions["Fit"]["anyOf"] = [
        {"properties": {"method": {"enum": [*SCALED]}}},
        {"properties": {"coefficient": {"const": "auto"}}},
    ]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "steerplug preset, version 1",
        **schema,
        "oneOf": [{"required": ["teacher"]}, {"required": ["contrast"]}],
        "allOf": [
            {
                "if": _method_in(*CONTRAST_ONLY),
                "then": {
                    "required": ["contrast"],
                    "properties": {"scope": {"const": "front"}, "contrast": _ONE_PAIR},
                },
                "else": {"properties": {"scope": {"enum": ["response", "all"]}}},
            },
            {"if": _method_in(*TEACHER_ONLY), "then": {"required": ["teacher"]}},
            {"if": {"required": ["contrast"]}, "then": {"required": ["fit"], "properties": {
                "fit": {"required": ["method"]}}}},
        ],
        "definitions": definitions,
    }


_ONE_PAIR = {"properties": {"positive": {"maxItems": 1}, "negative": {"maxItems": 1}}}


def _method_in(*methods: str) -> dict[str, Any]:
    fit = {"required": ["method"], "properties": {"method": {"enum": list(methods)}}}
    return {"required": ["fit"], "properties": {"fit": fit}}


def _as_draft_07(node: Any) -> Any:
    """Return `node` without titles, nulls and newer keywords; beside `$ref` nothing may stand."""
    if isinstance(node, list):
        return [_as_draft_07(item) for item in node]
    if not isinstance(node, dict):
        return node
    branches = [b for b in node.get("anyOf", []) if b != {"type": "null"}]
    if len(branches) < len(node.get("anyOf", [])):
        rest = {k: v for k, v in node.items() if k not in ("anyOf", "default")}
        (only,) = branches
        return _as_draft_07({**only, **rest})
    clean = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            clean[key] = {name: _as_draft_07(part) for name, part in value.items()}
        elif key in ("default", "examples", "const", "enum"):
            clean[key] = value
        elif key not in ("title", "discriminator"):
            clean[key] = _as_draft_07(value)
    if "const" in clean:
        clean.pop("enum", None)  # older versions of pydantic say it twice
    if "$ref" in clean and len(clean) > 1:
        return {"allOf": [{"$ref": clean.pop("$ref")}], **clean}
    return clean


def schema_text() -> str:
    """Return the schema as the shipped file holds it."""
    return json.dumps(make_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8", newline="\n")
