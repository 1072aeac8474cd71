"""How work says where it is."""

import threading

import pytest

from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.request import Request
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.fit import progress
from steerplug.fit.progress import at_once, in_turn, steps
from steerplug.fit.reply_cache import ask_all
from steerplug.steering.value import NOTHING
from tests.helpers.tiny_models import tiny_model


def test_what_is_gone_through_in_turn_is_counted_together() -> None:
    told = list[tuple[str, float, int]]()

    def report(what: str, done: float, total: int) -> None:
        told.append((what, done, total))

    for name, items, part in in_turn({"bare": "ab", "steered": "cd"}, report):
        assert "".join(steps(items, name, part)) == items
    assert told == [
        ("bare", 0, 4), ("bare", 1, 4), ("bare", 2, 4),
        ("steered", 2, 4), ("steered", 3, 4), ("steered", 4, 4),
    ]  # fmt: skip


def test_parts_of_what_is_asked_side_by_side_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LOOK", 0.01)
    told, half = list[float](), threading.Event()
    parts = {0: 0.5, 1: 0.25}

    def report(_what: str, done: float, _total: int) -> None:
        told.append(done)
        if done == 10.75:
            half.set()

    def ask(item: int) -> int:
        assert half.wait(60)
        return 2 * item

    assert at_once(ask, [0, 1], "asking", report, before=10, part=parts.__getitem__) == [0, 2]
    assert told[0] == 10.75
    assert told[-1] == 12
    assert told == sorted(told)


def test_an_error_beside_others_that_go_on_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LOOK", 0.01)
    ended = threading.Event()

    def ask(item: int) -> None:
        if item == 1:
            raise ValueError("one failed")
        ended.wait(60)

    try:
        with pytest.raises(ValueError, match="one failed"):
            at_once(ask, range(3), part=lambda _: 0.0)
    finally:
        ended.set()


def test_replies_are_told_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LOOK", 0.001)
    model, told = Model(tiny_model("llama")), list[float]()
    engine = Engine(model, n_ctx=512, n_threads=1)
    requests = [
        Request(Prompt((5, 6, i)), NOTHING, Sampling(temperature=0), max_tokens=100)
        for i in (7, 8, 9)
    ]
    said = ask_all(engine, requests, None, "asking", lambda _what, done, _n: told.append(done))
    assert [len(each.tokens) for each in said] == [100, 100, 100]
    assert told == sorted(told)
    assert any(0 < done % 1 < 1 for done in told)
    assert told[-1] == 3
    engine.close()
