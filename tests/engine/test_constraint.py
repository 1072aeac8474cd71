"""Replies held to a JSON Schema: what comes out is valid, and no schema does harm."""

import contextlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from steerplug.engine.constraint import ANY_JSON, Constraint, Lark
from steerplug.engine.deep_stack import MOST_BYTES
from steerplug.engine.engine import Engine, Progress, Request
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.engine.sampler import Sampling
from steerplug.engine.scope import Prompt
from steerplug.errors import ModelError, RequestError, SteerplugError
from steerplug.steering.value import NOTHING, Delta, Mix, Steering

PERSON: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "moods": {"type": "array", "items": {"enum": ["glad", "sad"]}, "minItems": 1,
                  "maxItems": 2},
        "home": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    },
    "required": ["name", "age", "moods", "home"],
    "additionalProperties": False,
}  # fmt: skip
CHOICE: Mapping[str, Any] = {"enum": ["yes", "no", "ünï ☔", 7]}
PLACE: Mapping[str, Any] = {
    "$defs": {"point": {
        "type": "array", "items": {"type": "integer", "minimum": -90, "maximum": 90},
        "minItems": 2, "maxItems": 2,
    }},
    "type": "object",
    "properties": {"at": {"$ref": "#/$defs/point"}, "code": {"type": "string",
                                                             "pattern": "^[A-Z]{2}[0-9]{3}$"}},
    "required": ["at", "code"],
    "additionalProperties": False,
}  # fmt: skip


def reply(
    engine: Engine,
    schema: Mapping[str, Any] | None,
    seed: int,
    mix: Mix = NOTHING,
    max_tokens: int = 120,
) -> tuple[str, str | None]:
    """A reply at temperature 1 to a question that does not ask for JSON, and how it ended."""
    tokens = engine.model.vocab.tokenize(
        "<|im_start|>user\nTell me about a friend of yours.<|im_end|>\n<|im_start|>assistant\n",
        special=True,
    )
    progress = Progress()
    request = Request(
        Prompt(tuple(tokens), has_bos=True), mix, Sampling(temperature=1.0, seed=seed),
        max_tokens=max_tokens, grammar=schema,
    )  # fmt: skip
    text = "".join(piece.text for piece in engine.generate(request, progress))
    return text, progress.finish_reason


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("schema", [PERSON, CHOICE, PLACE], ids=["person", "choice", "place"])
def test_a_reply_follows_its_schema_whatever_is_drawn(
    engine: Engine, schema: Mapping[str, Any], seed: int
) -> None:
    text, reason = reply(engine, schema, seed)
    assert reason == "stop"
    jsonschema.validate(json.loads(text), dict(schema))


def test_masks_are_computed_beside_the_decode(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, compute = engine.context.decode, Constraint._compute
    computed, decoding = threading.Event(), set[int]()
    in_time: list[bool] = []

    def slow_decode(rows: Sequence[Row]) -> None:
        decoding.add(threading.get_ident())
        if len(rows) == 1:  # a token of the reply, decoded for as long as its successor's mask
            in_time.append(computed.wait(60))
        computed.clear()
        decode(rows)

    def computes(constraint: Constraint) -> NDArray[np.bool_]:
        mask = compute(constraint)
        if threading.get_ident() not in decoding:  # there masks are computed to find a way out
            computed.set()
        return mask

    monkeypatch.setattr(engine.context, "decode", slow_decode)
    monkeypatch.setattr(Constraint, "_compute", computes)
    engine.forget()  # a prompt of which one row is missing looks like a token of the reply
    text, _ = reply(engine, PERSON, seed=1, max_tokens=400)
    jsonschema.validate(json.loads(text), PERSON)
    assert len(in_time) > 10
    assert all(in_time)


def test_without_a_schema_the_same_question_is_not_answered_in_json(engine: Engine) -> None:
    text, _ = reply(engine, None, 0, max_tokens=12)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(text)


def test_seeds_draw_different_replies_within_the_schema(engine: Engine) -> None:
    assert len({reply(engine, PERSON, seed)[0] for seed in range(3)}) > 1


def test_steering_that_garbles_the_model_cannot_break_the_schema(
    engine: Engine, model: Model
) -> None:
    z = np.random.default_rng(3).standard_normal(model.n_embd)
    deltas = {14: Delta.constant((300 * z / np.linalg.norm(z)).astype(np.float32))}
    mix = Mix.of(Steering("noise", model.n_embd, model.n_layer, deltas))
    text, reason = reply(engine, PERSON, 1, mix)
    assert reason == "stop"
    jsonschema.validate(json.loads(text), dict(PERSON))


def test_any_json_is_an_object_from_the_first_character(engine: Engine) -> None:
    text, reason = reply(engine, ANY_JSON, 2, max_tokens=200)
    assert text.startswith("{")
    if reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_the_empty_schema_asks_for_json_of_any_kind(engine: Engine) -> None:
    text, _ = reply(engine, {}, 0, max_tokens=6)
    assert text[0] in '{["-0123456789tfn'


@pytest.mark.parametrize("schema", [PERSON, CHOICE, PLACE, ANY_JSON, {}])
@pytest.mark.parametrize("seed", range(3))
def test_some_token_is_always_allowed(
    model: Model, schema: Mapping[str, Any], seed: int
) -> None:
    """A walk that draws evenly among what is allowed, and so goes where no model would."""
    rng, vocab = np.random.default_rng(seed), model.vocab
    constraint, tokens = Constraint(vocab, schema), list[int]()
    for _ in range(200):
        logits = rng.standard_normal(vocab.n_tokens).astype(np.float32)
        before = logits.copy()
        constraint.restrict(logits)
        allowed = np.flatnonzero(np.isfinite(logits))
        assert len(allowed) > 0
        assert np.array_equal(logits[allowed], before[allowed])
        token = int(rng.choice(allowed))
        constraint.accept(token)
        if vocab.ends_generation(token):
            jsonschema.validate(json.loads(vocab.text(tokens)), dict(schema))
            return
        tokens.append(token)


def test_what_may_come_first_is_what_a_reply_can_begin_with(model: Model) -> None:
    logits = np.zeros(model.vocab.n_tokens, np.float32)
    Constraint(model.vocab, CHOICE).restrict(logits)
    first = {model.vocab.text([int(token)]) for token in np.flatnonzero(np.isfinite(logits))}
    assert {'"', "7"} <= first
    assert all(any(whole.startswith(text) for whole in ('"yes', '"no', '"ü', "7"))
               for text in first - {"\ufffd", '"\ufffd'})


IMPOSSIBLE: dict[str, Mapping[str, Any]] = {
    "nothing allowed": {"enum": []},
    "a required key that may not be": {
        "type": "object", "properties": {"a": False}, "required": ["a"],
    },
    "two types at once": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "more than at most": {"type": "integer", "minimum": 5, "maximum": 3},
    "an unknown type": {"type": "strng"},
    "a type that is no text": {"type": 7},
    "a reference to nowhere": {"$ref": "#/$defs/nowhere"},
    "a reference to the web": {"$ref": "https://example.com/schema.json"},
    "a broken pattern": {"type": "string", "pattern": "([a-z"},
    "what JSON cannot say": {"type": "string", "default": object()},
    "a set": {"enum": {1, 2}},
    "keys of two kinds": {"type": "object", "properties": {("a",): {}}},
}  # fmt: skip


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_a_schema_that_cannot_be_followed_is_one_sentence(model: Model, kind: str) -> None:
    with pytest.raises(RequestError, match=r"\Athe JSON schema cannot be followed \(") as caught:
        Constraint(model.vocab, IMPOSSIBLE[kind])
    assert str(caught.value).endswith("; simplify it.")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [nested(100_000), nested(300), {"type": "string", "pattern": "(a|aa){1,900}b{1,900}c{1,900}"},
     {"enum": list(range(20_000))}, {"type": "string", "minLength": 10**12},
     {"type": "array", "minItems": 10**9, "items": {}}],
    ids=["deep", "deepish", "a wide pattern", "long", "a huge text", "a huge list"],
)  # fmt: skip
def test_a_huge_schema_is_followed_or_refused(model: Model, schema: dict[str, Any]) -> None:
    with contextlib.suppress(RequestError):
        assert allowed(Constraint(model.vocab, schema), model)


DEPTH = 4000  # 2500 end a process whose stack has 8 MB


@pytest.mark.parametrize("kind", ["rules", "references"])
def test_a_long_chain_of_rules_is_followed(model: Model, kind: str) -> None:
    chain = {f"a{i}": {"$ref": f"#/a{i + 1}"} for i in range(DEPTH)}
    rules = "\n".join(f"a{i}: a{i + 1}" for i in range(DEPTH))
    grammar: Mapping[str, Any] | Lark = (
        Lark(f"start: a0\n{rules}\na{DEPTH}: /[0-9]+/") if kind == "rules"
        else {"$ref": "#/a0", **chain, f"a{DEPTH}": {"type": "integer"}}
    )
    constraint = Constraint(model.vocab, grammar)
    assert constraint.replay(model.vocab.tokenize("12"))
    assert not constraint.replay(model.vocab.tokenize("x"))


def test_a_grammar_too_long_to_be_read_safely_is_refused(model: Model) -> None:
    with pytest.raises(RequestError, match=r"it takes \d+ characters, and may take"):
        Constraint(model.vocab, Lark(f'start: "x" // {"y" * MOST_BYTES}'))


def test_no_room_for_its_stack_is_one_sentence(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RequestError, match=r"cannot be followed .*no room to read it: can't start"):
        Constraint(model.vocab, Lark('start: "x"'))


def test_a_schema_that_cannot_be_followed_leaves_the_engine_as_it_was(engine: Engine) -> None:
    expected = reply(engine, CHOICE, 3)
    with pytest.raises(SteerplugError, match="cannot be followed"):
        reply(engine, IMPOSSIBLE["an unknown type"], 3)
    assert reply(engine, CHOICE, 3) == expected


def allowed(constraint: Constraint, model: Model) -> set[int]:
    logits = np.zeros(model.vocab.n_tokens, np.float32)
    constraint.restrict(logits)
    return set(np.flatnonzero(np.isfinite(logits)).tolist())


def test_two_constraints_do_not_share_their_place(model: Model) -> None:
    one, other = Constraint(model.vocab, PERSON), Constraint(model.vocab, PERSON)
    first = allowed(other, model)
    assert allowed(one, model) == first
    one.accept(min(first))
    assert allowed(one, model) != first
    assert allowed(other, model) == first


def test_the_vocabulary_of_a_closed_model_is_refused(model_path: Path) -> None:
    again = Model(model_path)
    Constraint(again.vocab, CHOICE)
    again.close()
    with pytest.raises(ModelError, match="is closed"):
        Constraint(again.vocab, CHOICE)
