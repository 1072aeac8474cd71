"""By what a reply is known: by all that decides on it, and by nothing else."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from steerplug.engine.call_marks import CallMarks
from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.request import Request
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.engine.thought_marks import ThoughtMarks
from steerplug.fit import reply_cache
from steerplug.fit.reply_cache import IDLE, name_of
from steerplug.steering.value import Delta, Mix, Steering

REQUEST = Request(Prompt((1, 2, 3, 4)))
MIX = Mix.of(Steering("x", 4, 2, {1: Delta.constant(np.ones(4, np.float32))}))
OTHER: dict[str, Any] = {
    "prompt": Prompt((1, 2, 3)), "mix": MIX, "sampling": Sampling(temperature=0), "stop": ("a",),
    "max_tokens": 5, "grammar": ANY_JSON, "unsteered": frozenset({"thinking"}), "logprobs": 3,
    "timeout": 9.0, "partition": "a", "calls": CallMarks(()), "thinking_budget": 0,
    "must_fit": True, "scored": True, "tells_end": True, "tells_moved": True,
}  # fmt: skip
OF_PROMPT: dict[str, Any] = {
    "tokens": (1, 2, 3), "responses": ((1, 2),), "has_bos": True, "begun": 1,
    "thoughts": ThoughtMarks("<a>", "</a>"),
}  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in fields(Request)])
def test_a_reply_is_known_by_each_field_that_decides_on_it(name: str) -> None:
    """A new field needs another value above, and belongs to the name unless `IDLE` lists it."""
    other = replace(REQUEST, **{name: OTHER[name]})
    assert other != REQUEST
    assert (name_of(other) == name_of(REQUEST)) == (name in IDLE)


@pytest.mark.parametrize("name", [field.name for field in fields(Prompt)])
def test_a_reply_is_known_by_all_of_its_prompt(name: str) -> None:
    other = replace(REQUEST, prompt=replace(REQUEST.prompt, **{name: OF_PROMPT[name]}))
    assert name_of(other) != name_of(REQUEST)


def test_what_says_nothing_of_a_reply_is_a_field_of_its_request() -> None:
    assert {field.name for field in fields(Request)} > IDLE


def test_a_reply_has_one_name_in_every_process() -> None:
    """The order of a set is another in each, and an object's place in memory as well."""
    phases = replace(REQUEST, unsteered=frozenset({"thinking", "constrained"}))
    assert reply_cache._told(phases.unsteered) == ["constrained", "thinking"]
    assert reply_cache._told(MIX) == MIX.digest
