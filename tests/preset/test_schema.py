"""The JSON Schema for editors: true to the models, valid draft-07, and no stricter or laxer."""

import json
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from steerplug.errors import PresetError
from steerplug.library.presets import shipped_folder
from steerplug.preset import Preset
from steerplug.preset.schema import SCHEMA_FILE, make_schema

SCHEMA = json.loads(SCHEMA_FILE.read_text())
SHIPPED = sorted(shipped_folder().glob("*.yaml"))
BASE: dict[str, Any] = {
    "schema": "steerplug/preset-v1",
    "name": "x",
    "contrast": {"positive": "a", "negative": "b"},
    "fit": {"method": "mean"},
}
TEACHER = {k: v for k, v in BASE.items() if k != "contrast"} | {"teacher": {"system": "Hi."}}


def test_the_shipped_schema_is_what_the_models_say() -> None:
    assert make_schema() == SCHEMA, "run python -m steerplug.preset.schema"


def test_the_schema_is_draft_07_and_uses_no_newer_keyword() -> None:
    Draft7Validator.check_schema(SCHEMA)
    text = json.dumps(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    for keyword in ("$defs", "prefixItems", "discriminator", "unevaluatedProperties", '"null"'):
        assert keyword not in text


def test_every_key_is_explained_to_the_editor() -> None:
    parts = {"preset": SCHEMA, **SCHEMA["definitions"]}
    unexplained = [
        f"{part}.{key}"
        for part, schema in parts.items()
        for key, field in schema["properties"].items()
        if "description" not in field and key != "kind"
    ]
    assert unexplained == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_preset_satisfies_the_schema(path: Any) -> None:
    assert problems(yaml.safe_load(path.read_text())) == []


def problems(data: object) -> list[str]:
    return [error.message for error in Draft7Validator(SCHEMA).iter_errors(data)]


ACCEPTED = [
    BASE,
    TEACHER,
    TEACHER | {"fit": {"method": "psr", "layers": [1, 2]}},
    TEACHER | {"scope": "all", "decoding": {"format": "json"}},
    BASE | {"decoding": {"unsteered": ["thinking", "constrained"]}},
    BASE | {"decoding": {"steered": ["thinking"]}},
    BASE | {"contrast": {"positive": ["a", "c"], "negative": ["", "b"]}},
    BASE | {"fit": {"method": "actadd", "coefficient": 4}},
    BASE | {"fit": {"method": "actadd"}, "scope": "front"},
    BASE | {"checks": [{"kind": "json"}, {"kind": "excludes", "phrases": ["a"]}]},
]
REFUSED = [
    {k: v for k, v in BASE.items() if k != "schema"},
    {k: v for k, v in BASE.items() if k != "fit"},
    {k: v for k, v in BASE.items() if k != "contrast"},
    BASE | {"schema": "steerplug/preset-v2"},
    BASE | {"name": "none"},
    BASE | {"name": "A b"},
    BASE | {"tgas": []},
    BASE | {"version": 1.0},
    BASE | {"teacher": {"system": "Hi."}},
    BASE | {"teacher": None},
    TEACHER | {"teacher": {}},
    TEACHER | {"teacher": {"examples": []}},
    TEACHER | {"teacher": {"system": "  "}},
    TEACHER | {"teacher": {"examples": [{"user": "a"}]}},
    TEACHER | {"fit": {"method": "actadd"}},
    TEACHER | {"fit": {"method": "psr", "coefficient": 2}},
    BASE | {"fit": {"method": "psr"}},
    BASE | {"fit": {"method": "men"}},
    BASE | {"fit": {"method": "mean", "layers": [1, 1]}},
    BASE | {"fit": {"method": "mean", "layers": [1024]}},
    BASE | {"fit": {"method": "mean", "coefficient": 0}},
    BASE | {"fit": {"method": "actadd"}, "scope": "all"},
    BASE | {"scope": "front"},
    BASE
    | {"contrast": {"positive": ["a", "c"], "negative": ["b", "d"]}, "fit": {"method": "actadd"}},
    BASE | {"strength": {"max": 101}},
    BASE | {"strength": {"max": 0}},
    BASE | {"decoding": {"format": "xml"}},
    BASE | {"decoding": {}},
    BASE | {"decoding": {"unsteered": []}},
    BASE | {"decoding": {"unsteered": ["thinking", "thinking"]}},
    BASE | {"decoding": {"steered": ["constrained"]}},
    BASE | {"decoding": {"steered": []}},
    BASE | {"decoding": {"unsteered": ["calls"]}},
    BASE | {"checks": [{"kind": "jsn"}]},
    BASE | {"checks": [{"kind": "excludes", "phrases": []}]},
    BASE | {"checks": [{"kind": "max_words", "count": 0}]},
]


@pytest.mark.parametrize("data", ACCEPTED, ids=str)
def test_what_the_models_accept_the_schema_accepts(data: dict[str, Any]) -> None:
    assert Preset.from_mapping(data).name == data["name"]
    assert problems(data) == []


@pytest.mark.parametrize("data", REFUSED, ids=str)
def test_what_the_models_refuse_the_schema_refuses(data: dict[str, Any]) -> None:
    with pytest.raises(PresetError):
        Preset.from_mapping(data)
    assert problems(data) != []
