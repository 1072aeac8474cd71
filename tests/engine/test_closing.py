"""Constrained replies that run out of room: whole when they are cut short."""

import json
import re
from collections.abc import Mapping
from typing import Any

import jsonschema
import numpy as np
import pytest

from steerplug.engine.closing import Closing
from steerplug.engine.constraint import ANY_JSON, Choice, Constraint, Grammar, Lark, Regex
from steerplug.engine.endings import Place
from steerplug.engine.engine import Engine, Progress, Request
from steerplug.engine.model import Model
from steerplug.engine.sampler import Sampling
from steerplug.errors import RequestError
from tests.helpers.alone import chat

NESTED: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array", "minItems": 1,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                "required": ["name", "age"], "additionalProperties": False,
            },
        },
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"},
    },
    "required": ["people", "code"], "additionalProperties": False,
}  # fmt: skip
LIST: Mapping[str, Any] = {
    "type": "array", "minItems": 3, "items": {"type": "integer", "minimum": 10},
}
SUM = Lark('start: "(" part ("+" part)* ")"\npart: /[0-9]+/ | start')


def random_walk(model: Model, grammar: Grammar, n: int, seed: int) -> tuple[str, bool]:
    """What a model would say that draws evenly among what is allowed, and whether it was closed."""
    rng, vocab, tokens = np.random.default_rng(seed), model.vocab, list[int]()
    walk = Closing(Constraint(vocab, grammar), vocab, n)
    while len(tokens) < n and not walk.constraint.is_complete:
        token = walk.accept(int(rng.choice(np.flatnonzero(walk.constraint.allowed()))))
        if vocab.ends_generation(token):
            break
        tokens.append(token)
    return vocab.text(tokens), walk.was_forced


@pytest.mark.parametrize("schema", [NESTED, LIST, ANY_JSON, {}])
@pytest.mark.parametrize("n", [36, 50, 90])
def test_json_is_whole_however_little_room_there_is(
    model: Model, schema: Mapping[str, Any], n: int
) -> None:
    forced = 0
    for seed in range(8):
        text, was_forced = random_walk(model, schema, n, seed)
        jsonschema.validate(json.loads(text), dict(schema))
        forced += was_forced
    if schema in (NESTED, ANY_JSON):
        assert forced > 0


@pytest.mark.parametrize(
    ("grammar", "whole"),
    [
        (Regex(r"[a-z ]+ is [0-9]{4}\."), r"[a-z ]+ is [0-9]{4}\."),
        (Regex(r"([a-z]+@[a-z]+\.com, )+end"), r"([a-z]+@[a-z]+\.com, )+end"),
        (SUM, r"\([0-9+()]*\)"),
        (Choice(("yes", "no", "perhaps not today")), "yes|no|perhaps not today"),
    ],
)
@pytest.mark.parametrize("n", [20, 40])
def test_other_grammars_are_closed_as_well(
    model: Model, grammar: Grammar, whole: str, n: int
) -> None:
    for seed in range(6):
        text, _ = random_walk(model, grammar, n, seed)
        assert re.fullmatch(whole, text), text
        assert text.count("(") == text.count(")")


def test_without_closing_the_same_walk_is_cut_off(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerplug.engine.closing.find_ending", lambda *_: None)
    text, was_forced = random_walk(model, NESTED, 40, 0)
    assert not was_forced
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


@pytest.mark.parametrize(
    ("n", "ends"), [(12, {"length"}), (20, {"length", "stop"}), (200, {"stop"})]
)
def test_a_reply_of_the_engine_is_whole_and_says_why_it_ended(
    engine: Engine, n: int, ends: set[str]
) -> None:
    progress = Progress()
    request = Request(
        chat(engine.model, "Tell me about a friend, at length."),
        sampling=Sampling(temperature=1.2, seed=3), max_tokens=n,
        grammar={"type": "object", "properties": {"about": {"type": "string", "maxLength": 300}},
                 "required": ["about"], "additionalProperties": False},
    )  # fmt: skip
    text = "".join(piece.text for piece in engine.generate(request, progress))
    assert json.loads(text)["about"]
    assert progress.n_generated <= n
    assert progress.finish_reason in ends  # in 20 tokens one processor's words end, another's not


def test_a_complete_reply_ends_without_another_token(engine: Engine) -> None:
    request = Request(chat(engine.model, "Yes or no?"), grammar=Choice(("yes", "no")))
    progress = Progress()
    pieces = list(engine.generate(request, progress))
    assert "".join(piece.text for piece in pieces) in ("yes", "no")
    assert progress.finish_reason == "stop"
    assert len(pieces) == 1


def test_room_for_less_than_the_shortest_reply_is_used_up(engine: Engine) -> None:
    request = Request(chat(engine.model, "Who?"), grammar=NESTED, max_tokens=4)
    progress = Progress()
    assert len(list(engine.generate(request, progress))) == 4
    assert progress.finish_reason == "length"


def test_what_has_to_be_whole_and_needs_more_room_than_a_large_one_is_refused(
    engine: Engine,
) -> None:
    numbers = {"type": "array", "minItems": 400, "items": {"type": "integer"}}
    asked = chat(engine.model, "Count.")
    request = Request(asked, grammar=numbers, max_tokens=600, must_fit=True)
    with pytest.raises(RequestError, match=r"max_tokens is 600, .* with \d{3,4}; raise it"):
        next(iter(engine.generate(request)))
    few = Request(asked, grammar={**numbers, "minItems": 2}, max_tokens=600, must_fit=True)
    assert next(iter(engine.generate(few))).text


@pytest.mark.parametrize(
    ("grammar", "name"),
    [(Regex("([a-z"), "regex"), (Choice(()), "choice"), (Choice(("a", "")), "choice"),
     (Lark("start: nowhere"), "lark"), (Lark("not a grammar ((("), "lark")],
)  # fmt: skip
def test_a_grammar_that_cannot_be_followed_is_one_sentence(
    model: Model, grammar: Grammar, name: str
) -> None:
    with pytest.raises(RequestError, match=rf"\Athe {name} cannot be followed \(.*simplify it\.$"):
        Constraint(model.vocab, grammar)


def test_options_are_taken_literally(engine: Engine) -> None:
    option = 'a "b" \\n | c'
    request = Request(chat(engine.model, "?"), grammar=Choice((option,)))
    assert "".join(piece.text for piece in engine.generate(request)) == option


@pytest.mark.parametrize(
    ("text", "in_string", "escaped"),
    [('{"a', True, False), ('{"a"', False, False), ('{"a\\"', True, False), ('{"a\\', True, True),
     ('{"a\\\\"', False, False), ("{", False, False)],
)  # fmt: skip
def test_the_place_in_json(text: str, in_string: bool, escaped: bool) -> None:
    place = Place().after(text[:2].encode()).after(text[2:].encode())
    assert (place.in_string, place.escaped) == (in_string, escaped)
