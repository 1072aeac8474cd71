"""Replies on a device that tells later what it steered: their receipts, errors and cells.

The oracle is an engine on the host, which is told at once.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import Any

import numpy as np
import pytest

from steerplug.engine import engine as engines
from steerplug.engine.capture import Capture
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Piece, Progress, Request
from steerplug.engine.generation import Generation, Item
from steerplug.engine.model import Model
from steerplug.engine.prefix_cache import PrefixCache
from steerplug.engine.rows import Row
from steerplug.engine.sampling import Sampling
from steerplug.engine.scheduler import Scheduler
from steerplug.engine.scope import Prompt
from steerplug.errors import EngineError
from steerplug.steering.value import Mix
from tests.engine.test_device_route import new_context
from tests.engine.test_told_later import gate_of_one
from tests.helpers.alone import check_accounts, steering

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="only there are graphs replaced")

N = 40


@pytest.fixture
def engine(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(engines, "Context", partial(Context, on_device=True))
    engine = Engine(tiny, n_ctx=512, n_threads=1)
    assert engine.context.route == "device"
    yield engine
    engine.close()


@pytest.fixture
def node(tiny: Model) -> Iterator[Context]:
    context = new_context(tiny)
    yield context
    context.close()


def asks(tiny: Model, mix: Mix, **settings: Any) -> Request:
    text = tuple(tiny.vocab.tokenize("Tell me about the sea."))
    ends = filter(tiny.vocab.ends_generation, range(tiny.vocab.n_tokens))
    sampling = Sampling(temperature=0, logit_bias=dict.fromkeys(ends, -100.0))
    return Request(Prompt(text), mix, sampling, max_tokens=N, **settings)


def read(engine: Engine, request: Request, *, whole: bool = False) -> tuple[list[Piece], Progress]:
    progress = Progress()
    return list(engine.generate(request, progress, whole=whole)), progress


@pytest.mark.parametrize("whole", [False, True])
def test_a_reply_on_a_device_has_the_receipt_of_one_on_the_host(
    engine: Engine, tiny: Model, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.undo()
    host = Engine(tiny, n_ctx=512, n_threads=1)
    request = asks(tiny, steering(tiny))
    got, want = read(engine, request, whole=whole), read(host, request, whole=whole)
    assert [piece.token for piece in got[0]] == [piece.token for piece in want[0]]
    for name in ("n_prompt", "n_generated", "n_steered", "n_moved", "finish_reason"):
        assert getattr(got[1], name) == getattr(want[1], name)
    assert got[1].moved == pytest.approx(want[1].moved, rel=1e-3)
    assert engine.context.hook.route is not None
    assert engine.context.hook.route.state.n_pending == 0
    check_accounts(engine)
    host.close()


def test_each_piece_tells_how_far_it_was_moved_if_that_is_asked_for(
    engine: Engine, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    host = Engine(tiny, n_ctx=512, n_threads=1)
    want, _ = read(host, asks(tiny, steering(tiny)))
    told, _ = read(engine, asks(tiny, steering(tiny), tells_moved=True))
    np.testing.assert_allclose([p.moved for p in told], [p.moved for p in want], rtol=1e-3)
    engine.forget()
    untold, _ = read(engine, asks(tiny, steering(tiny)))
    assert all(math.isnan(piece.moved) for piece in untold)
    assert all(piece.moved == 0 for piece in read(engine, asks(tiny, Mix()))[0])
    host.close()


@pytest.fixture
def bad(engine: Engine, tiny: Model, node: Context) -> tuple[Mix, list[int]]:
    """What makes an activation of the reply infinite, and the tokens up to there."""
    pieces, _ = read(engine, asks(tiny, Mix()))
    prompt = tiny.vocab.tokenize("Tell me about the sea.")
    tokens = [*prompt, *(piece.token for piece in pieces if piece.token is not None)]
    rows = [Row(token, i, True) for i, token in enumerate(tokens)]
    captured = node.decode(rows, Capture([0], range(len(rows))))
    assert captured is not None
    later = range(len(prompt) + 3, len(tokens))
    which = next(i for i in later if tokens[i] not in tokens[:i])
    engine.forget()
    steering = gate_of_one(captured[0][: which + 1], which, tiny.n_layer, 1e30)
    return Mix.of(steering), tokens[: which + 1]


@pytest.mark.parametrize("leaves", [False, True])
def test_cells_of_a_reply_whose_steering_has_failed_are_left_to_no_other(
    engine: Engine, tiny: Model, bad: tuple[Mix, list[int]], leaves: bool
) -> None:
    mix, tokens = bad
    scheduler, delivered = Scheduler(PrefixCache(engine.context)), list[Item]()
    scheduler.cache.clear()

    def join(request: Request) -> Generation:
        reply = Generation(
            request, Progress(), delivered.append, scheduler.cache, tiny.vocab, engine.n_ctx
        )
        scheduler.waiting.append(reply)
        scheduler.step()
        return reply

    first = join(asks(tiny, mix))
    while first.held is not None and len(first.held) <= len(tokens):
        scheduler.step()
    assert first in scheduler.running
    if leaves:
        scheduler._preempt()
    else:
        second = join(replace(asks(tiny, mix), prompt=Prompt((*tokens, 5))))
        assert second.progress.n_cached == 0
    assert first not in (*scheduler.running, *scheduler.waiting)
    assert any(isinstance(item, EngineError) for item in delivered)
    assert scheduler.cache.n_used == 0


def test_a_reply_whose_steering_fails_on_its_way_ends_in_the_error_and_no_other_does(
    engine: Engine, tiny: Model, bad: tuple[Mix, list[int]]
) -> None:
    good, alone = asks(tiny, steering(tiny)), read(engine, asks(tiny, steering(tiny)))
    engine.forget()
    beside: list[tuple[list[Piece], Progress]] = []
    thread = Thread(target=lambda: beside.append(read(engine, good)))
    thread.start()
    with pytest.raises(EngineError, match=r"infinite; choose a smaller strength\.$"):
        read(engine, asks(tiny, bad[0]))
    thread.join()
    ((said, progress),) = beside
    assert [piece.token for piece in said] == [piece.token for piece in alone[0]]
    assert progress.n_moved == alone[1].n_moved
    assert progress.moved == pytest.approx(alone[1].moved, rel=1e-3)
    check_accounts(engine)
    assert read(engine, good)[1].finish_reason == "length"
