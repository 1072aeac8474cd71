"""Each kind of check, on replies that keep its promise and replies that break it."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from steerplug.preset.checks import Check

ADAPTER: TypeAdapter[Check] = TypeAdapter(Check)

KEPT: list[tuple[dict[str, Any], str]] = [
    ({"kind": "json"}, ' {"a": [1, null]}\n'),
    ({"kind": "json"}, "[]"),
    ({"kind": "excludes", "phrases": ["sure"]}, "A measure of pressure."),
    ({"kind": "excludes", "phrases": ["Sure!"]}, "I am sure."),
    ({"kind": "includes", "phrases": ["matey", "ahoy"]}, "AHOY there"),
    ({"kind": "includes", "phrases": ["I'm an AI"]}, "i\u2019m  an\nAI."),
    ({"kind": "includes", "phrases": ["C++"]}, "Use C++11."),
    ({"kind": "starts_with", "phrases": ["Dear"]}, "  dear Ann,"),
    ({"kind": "max_words", "count": 3}, "one two three"),
    ({"kind": "min_words", "count": 3}, "one two three"),
    ({"kind": "bullets"}, "Here:\n- one\n* two"),
    ({"kind": "bullets"}, "1. one\n2) two"),
    ({"kind": "language", "code": "en"}, "The answer to this is in the book."),
    ({"kind": "language", "code": "fr"}, "Le chat est dans la maison avec nous."),
    ({"kind": "language", "code": "de"}, "Die Katze ist nicht in dem Haus."),
    ({"kind": "language", "code": "es"}, "El gato está en la casa con los niños."),
]
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"kind": "json"}, 'Here you go: {"a": 1}'),
    ({"kind": "json"}, '```json\n{"a": 1}\n```'),
    ({"kind": "json"}, "42"),
    ({"kind": "json"}, '{"a": NaN}'),
    ({"kind": "json"}, "[" * 100_000),
    ({"kind": "json"}, "[" + "9" * 10_000 + "]"),
    ({"kind": "excludes", "phrases": ["x", "as an AI"]}, "Well, As An AI, no."),
    ({"kind": "includes", "phrases": ["love"]}, "gloves and lovers"),
    ({"kind": "starts_with", "phrases": ["Dear"]}, "My dear Ann"),
    ({"kind": "starts_with", "phrases": ["Dear"]}, "Dearest Ann"),
    ({"kind": "max_words", "count": 3}, "one two three four"),
    ({"kind": "min_words", "count": 3}, "one two"),
    ({"kind": "bullets"}, "- only one"),
    ({"kind": "bullets"}, "- one\n- two\nprose\nprose"),
    ({"kind": "bullets"}, "-5 degrees\n-6 degrees"),
    ({"kind": "language", "code": "fr"}, "The cat is in the house with us."),
    ({"kind": "language", "code": "en"}, "Paris!"),
]


@pytest.mark.parametrize(("rule", "reply"), KEPT)
def test_a_reply_that_keeps_the_promise_passes(rule: dict[str, Any], reply: str) -> None:
    assert ADAPTER.validate_python(rule).passes(reply)


@pytest.mark.parametrize(("rule", "reply"), BROKEN)
def test_a_reply_that_breaks_the_promise_fails(rule: dict[str, Any], reply: str) -> None:
    assert not ADAPTER.validate_python(rule).passes(reply)


@pytest.mark.parametrize(
    "rule", [{"kind": "excludes", "phrases": ["x"]}, {"kind": "max_words", "count": 3}]
)
@pytest.mark.parametrize("reply", ["", " \n"])
def test_an_empty_reply_passes_nothing(rule: dict[str, Any], reply: str) -> None:
    assert not ADAPTER.validate_python(rule).passes(reply)
