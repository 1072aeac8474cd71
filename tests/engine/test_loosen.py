"""Schemas that no grammar expresses: replies are held to what can be, and checked for the rest.

The judge of what a schema allows is the `jsonschema` package.
"""

import contextlib
import enum
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from steerplug import ChatSteerplug, Sampling
from steerplug.chat.calls.form import TAGGED
from steerplug.chat.calls.grammar import reply_grammar, usable
from steerplug.chat.tool import Tool, Tools, closed
from steerplug.engine.constraint import Constraint
from steerplug.engine.loosen import loosened
from steerplug.engine.model import Model
from steerplug.engine.violation import violation
from steerplug.errors import RequestError
from steerplug.session import Session, Settings
from tests.helpers.serving import Client, served, told
from tests.helpers.tiny_models import tiny_model

Schema = Mapping[str, Any]

TEXTS = ["", "a", "b", "ab", "x1"]
PATTERNS = ["^a", "b$", "^(?=.*[0-9])", r"^\w+$", r"a\b", "^(?!x)", "[0-9]"]


def some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=keywords)


def schemas() -> st.SearchStrategy[Any]:
    """JSON Schemas of few names and values, so that random values often follow them."""
    names = st.sampled_from(TEXTS[1:])
    patterns, several_names = st.sampled_from(PATTERNS), st.lists(names, max_size=2, unique=True)
    counts, numbers = st.integers(0, 3), st.sampled_from([-1, 0, 0.5, 1, 2, 3])
    values = st.sampled_from([None, True, 0, 1, 2.0, "a", "ab", [], ["a"], {}, {"a": 1}])
    leaves = st.booleans() | st.one_of(
        some(type=st.sampled_from(["object", "array", "string", "integer", "number", "null"])),
        some(enum=st.lists(values, min_size=1, max_size=3)), some(const=values),
        some(minLength=counts, maxLength=counts, pattern=patterns),
        some(format=st.sampled_from(["path", "date", "int32"]), pattern=patterns),
        some(minimum=numbers, maximum=numbers, multipleOf=st.sampled_from([1, 0.5, 1e-12])),
        some(minItems=counts, maxItems=counts, uniqueItems=st.booleans()),
        some(minProperties=counts, maxProperties=counts, required=several_names),
    )

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        several = st.lists(inner, min_size=1, max_size=2)
        named = st.dictionaries(names, inner, max_size=2)
        matched = st.dictionaries(patterns, inner, max_size=2)
        pairs = st.dictionaries(names, several_names, max_size=2)
        conditions = {"if": inner, "then": inner, "else": inner}
        return st.one_of(
            some(properties=named, additionalProperties=inner, required=several_names),
            some(properties=named, patternProperties=matched, additionalProperties=inner),
            some(properties=named, minProperties=counts, maxProperties=counts),
            some(properties=named, propertyNames=inner, additionalProperties=inner),
            some(properties=named, allOf=several, unevaluatedProperties=inner),
            some(properties=named, dependentSchemas=named, dependentRequired=pairs),
            some(prefixItems=several, items=inner, minItems=counts, unevaluatedItems=inner),
            some(items=inner, contains=inner, minContains=counts, maxContains=counts),
            some(anyOf=several, oneOf=several, allOf=several), some(anyOf=several, oneOf=several),
            some(**conditions), some(**{"not": inner}), some(oneOf=several, properties=named),
        )

    return st.recursive(leaves, nested, max_leaves=8)


OBJECTS = schemas().filter(lambda schema: isinstance(schema, dict))
VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 2, 2.0, 0.5, -1, *TEXTS]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(TEXTS), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@example({"patternProperties": {"^(?!x)": {}}, "additionalProperties": False}, [{"a": 1}])
@example({"propertyNames": {"enum": ["a"]}, "required": ["a"]}, [{"a": 1}])
@example({"anyOf": [{"minimum": 1}], "oneOf": [{"type": "integer"}, {"minimum": 3}]}, [2, 3.5])
@given(OBJECTS, st.lists(VALUES, min_size=6, max_size=16))
def test_the_looser_one_allows_all_that_the_schema_does_and_what_it_allows_beyond_is_found(
    schema: Schema, values: list[Any]
) -> None:
    try:
        loose = loosened(schema)
    except ValueError:
        return
    strict, looser = map(jsonschema.Draft202012Validator, (schema, loose.schema))
    for value in values:
        if strict.is_valid(value):
            assert looser.is_valid(value), loose
            assert violation(schema, json.dumps(value)) is None
        elif looser.is_valid(value):
            assert loose.left_out
            assert violation(schema, json.dumps(value))


ODD: dict[str, Schema] = {
    "set": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True, "minItems": 2},
    "look-ahead": {"type": "string", "pattern": "^(?=.*[0-9])[a-z0-9]{3,8}$"},
    "back reference": {"type": "string", "pattern": r"^(a|b)\1$"},
    "word boundary": {"type": "string", "pattern": r"\bcat\b"},
    "not": {"not": {"type": "string"}},
    "if": {"type": "object", "properties": {"a": {"type": "integer"}},
           "if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}},
    "contains": {"type": "array", "contains": {"const": 1}, "maxContains": 2},
    "names": {"type": "object", "propertyNames": {"maxLength": 3}},
    "dependent": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "dependencies": {"type": "object", "dependencies": {"a": ["b"]}},
    "one of": {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 2}]},
    "count of optional keys": {"type": "object", "properties": {"a": {}, "b": {}},
                               "minProperties": 2},
    "patterns of keys": {"type": "object", "patternProperties": {"^a": {"type": "string"},
                                                                 "b$": {"maxLength": 3}}},
    "unevaluated": {"type": "object", "allOf": [{"properties": {"a": {}}}],
                    "unevaluatedProperties": False},
    "fine step": {"type": "number", "multipleOf": 1e-12},
    "dynamic": {"$dynamicAnchor": "n", "type": "object",
                "properties": {"c": {"$dynamicRef": "#n"}}},
    "part of what is left out": {"not": {"type": "string"}, "items": {"$ref": "#/not"}},
    "joined to itself": {"$defs": {"a": {"type": "object",
                                         "properties": {"x": {"$ref": "#/$defs/a"}}}},
                         "allOf": [{"$ref": "#/$defs/a"},
                                   {"properties": {"x": {"$ref": "#/$defs/a"}}}]},
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_what_a_grammar_cannot_express_is_left_out_and_said_once(
    kind: str, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    schema = {**ODD[kind], "title": f"test of {kind}"}
    with caplog.at_level(logging.WARNING, "steerplug.engine"):
        Constraint(model.vocab, schema)
        Constraint(model.vocab, schema)
        loose = loosened(schema)
    assert loose.left_out
    assert [record.getMessage() for record in caplog.records].count(
        f"a schema asks for {', '.join(loose.left_out)}, which no reply can be held to while it is "
        "generated; finished replies are checked for it."
    ) == 1


KEPT: dict[str, Schema] = {
    "an unknown format": {"type": "string", "format": "file-path"},
    "a format of numbers": {"type": "integer", "format": "int32"},
    "what asks for nothing": {"type": "array", "uniqueItems": False, "minContains": 1},
    "a condition without consequence": {"if": {"type": "string"}},
    "a whole count": {"type": "string", "maxLength": 3.0},
    "an unknown dialect": {"$schema": "https://example.com/dialect", "type": "string"},
    "keys that are named like keywords": {"type": "object", "properties": {"not": {}, "if": {}}},
    "closed": {"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False},
    "named keys": {"type": "object", "propertyNames": {"enum": ["a", "b"]},
                   "additionalProperties": {"type": "integer"}},
    "keys by a pattern": {"type": "object", "propertyNames": {"pattern": "^a"}},
    "a key and its pattern": {"type": "object", "properties": {"ab": {"type": "string"}},
                              "patternProperties": {"^a": {"maxLength": 1}}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
def test_what_can_be_said_another_way_is_not_left_out(kind: str, model: Model) -> None:
    Constraint(model.vocab, KEPT[kind])
    assert loosened(KEPT[kind]).left_out == ()


class Colour(enum.Enum):
    RED, BLUE = "red", "blue"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Everything(BaseModel):
    tags: set[str]
    ids: frozenset[int]
    shades: dict[Colour, int]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    code: Annotated[str, Field(json_schema_extra={"pattern": "^(?!x)[a-z]+$"})]
    path: Annotated[str, Field(json_schema_extra={"format": "path"})]


def test_schemas_that_pydantic_writes_are_followed(model: Model) -> None:
    schema = Everything.model_json_schema()
    Constraint(model.vocab, schema)
    assert set(loosened(schema).left_out) <= {
        "`uniqueItems` at #/properties/tags", "`uniqueItems` at #/properties/ids",
        "`pattern` at #/properties/code", "`oneOf` at #/properties/pet",
    }  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(?=([a-z"}, {"not": {"$ref": "https://example.com/x"}},
        {"uniqueItems": True, "type": "nope"}, {"uniqueItems": True, "minItems": 3, "maxItems": 1,
                                                "type": "array"},
        {"uniqueItems": True, "items": {"$ref": "#/$defs/nowhere"}},
    ],
)  # fmt: skip
def test_what_is_broken_is_not_loosened(schema: Schema, model: Model) -> None:
    with pytest.raises(RequestError, match=r"\Athe JSON schema cannot be followed \("):
        Constraint(model.vocab, schema)


def test_a_pattern_that_backtracks_for_ever_is_given_up() -> None:
    schema = {"type": "string", "pattern": r"^(?=(a|a|aa)+\1b$)"}
    assert violation(schema, json.dumps("a" * 5000)) is None


@pytest.mark.parametrize("depth", [300, 100_000])
def test_deep_schemas_and_deep_replies_are_bounded(depth: int) -> None:
    schema: dict[str, Any] = {"uniqueItems": True}
    for _ in range(depth):
        schema = {"items": schema}
    with contextlib.suppress(ValueError, RecursionError):
        assert violation(schema, "[" * 900 + "]" * 900) is None
    assert violation({"uniqueItems": True}, "[" * depth + "]" * depth) is None


# What was asked for

DOUBLE = {"type": "array", "items": {"const": "a"}, "minItems": 2, "maxItems": 2,
          "uniqueItems": True}  # fmt: skip
"""What a grammar cannot keep a reply from breaking."""
WRAPPED = {"type": "object", "properties": {"x": DOUBLE}, "required": ["x"],
           "additionalProperties": False}  # fmt: skip


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    session = Session(tiny_model("llama"), n_ctx=512, n_cells=2048, n_threads=1)
    with served(session) as client:
        yield client
    session.close()


def chat_model() -> ChatSteerplug:
    path = str(tiny_model("llama"))
    return ChatSteerplug(model=path, temperature=0, max_tokens=100, n_ctx=512, n_threads=1)


def test_a_reply_that_breaks_what_was_left_out_is_an_error_at_every_door(client: Client) -> None:
    sentence = r'breaks its schema at \$\.x \(\["a","a"\] has non-unique elements\)'
    greedy = Settings(Sampling(temperature=0), max_tokens=100, format=WRAPPED)
    with pytest.raises(RequestError, match=sentence):
        client.session.chat("Go.", settings=greedy)
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": WRAPPED}}
    response = client.chat(response_format=form, max_tokens=100)
    assert response.status_code == 400
    assert "has non-unique elements" in told(response)
    assert "has non-unique elements" in client.chat(
        response_format=form, max_tokens=100, stream=True
    ).text
    model = chat_model()
    for method in ("json_schema", "function_calling"):
        with pytest.raises(RequestError, match=sentence):
            model.with_structured_output({"title": "x", **WRAPPED}, method=method).invoke("Go.")


def test_a_reply_that_keeps_what_was_left_out_is_handed_on(client: Client) -> None:
    schema = {**WRAPPED, "properties": {"x": {**DOUBLE, "minItems": 1, "maxItems": 1}}}
    settings = Settings(Sampling(temperature=0), max_tokens=100, format=schema)
    assert json.loads(client.session.chat("Go.", settings=settings).text) == {"x": ["a"]}


class Twice(BaseModel):
    """Twice the same."""

    x: Annotated[set[Literal["a"]], Field(json_schema_extra={"minItems": 2, "maxItems": 2})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_set_is_read_from_a_list_that_says_it_twice(method: str) -> None:
    model = chat_model()
    assert model.with_structured_output(Twice, method=method).invoke("Go.") == Twice(x={"a"})


# Tools

NOW = Tool("now", "", {"type": "object", "properties": {}})
BAD = Tool("bad", "", {"type": "object", "properties": {"x": {"type": "nope"}}, "required": ["x"]})


def test_a_tool_that_cannot_be_called_is_set_aside_where_others_are_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for choice in ("auto", "required"):
        with caplog.at_level(logging.WARNING, "steerplug.chat"):
            assert usable(Tools((NOW, BAD), choice)).tools == (NOW,)
    assert "in the tool 'bad', the JSON schema cannot be followed" in caplog.text
    assert caplog.text.count("set aside") == 1
    assert usable(Tools((NOW, BAD), "now")).tools == (NOW, BAD)
    assert usable(Tools((NOW, BAD), "none")).tools == (NOW, BAD)
    for tools in (Tools((BAD,)), Tools((NOW, BAD), "bad"), Tools((BAD,), "required")):
        with pytest.raises(RequestError, match="in the tool 'bad', the JSON schema cannot be"):
            usable(tools)


def test_a_request_with_a_tool_that_cannot_be_called_is_answered(client: Client) -> None:
    tools = [{"type": "function", "function": {"name": tool.name, "parameters": tool.parameters}}
             for tool in (NOW, BAD)]  # fmt: skip
    assert client.chat(tools=tools).status_code == 200
    call = client.chat(tools=tools, tool_choice="required", max_tokens=60).json()
    names = {call["function"]["name"] for call in call["choices"][0]["message"]["tool_calls"]}
    assert names == {"now"}
    assert client.chat(tools=tools[1:]).status_code == 400


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a": {"const": 1}}, "if": {"required": ["a"]}, "then": {
            "properties": {"b": {"const": 2}}, "required": ["b"]}},
        {"properties": {"a": {"const": 1}}, "allOf": [{"properties": {"b": {"const": 2}}}]},
        {"properties": {"a": {"const": 1}}, "required": ["a", "b"]},
    ],
)  # fmt: skip
def test_keys_that_other_keywords_speak_of_may_be_said(
    parameters: dict[str, Any], model: Model
) -> None:
    grammar, _ = reply_grammar(
        TAGGED, Tools((Tool("x", "", parameters),), "x"), None, model.vocab
    )
    assert grammar is not None
    constraint = Constraint(model.vocab, grammar)
    text = '<tool_call>\n{"name": "x", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
    assert constraint.replay(model.vocab.tokenize(text, special=True))
    assert closed(parameters) == parameters
