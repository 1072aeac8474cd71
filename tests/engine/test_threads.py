"""Who has done decoding leaves no team of threads behind, for a team too many slows all others.

On a tiny model: where both threads share a processor, each operation waits for the other.
"""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from steerplug.engine import threads
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Request
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.rows import Row
from steerplug.engine.scope import Prompt

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc"),
    pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="OpenMP is GNU's there"),
]
ROWS = [Row(100 + i, i, i == 7) for i in range(8)]


@pytest.fixture(autouse=True)
def nobody_else() -> None:
    """No threads of earlier tests end while this one counts."""
    threads.give_back()
    before = -1
    while n_threads() != before:
        before = n_threads()
        time.sleep(0.05)


def n_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def until(n: int) -> None:
    """Wait for threads that were told to end."""
    for _ in range(6000):
        if n_threads() <= n:
            return
        time.sleep(0.01)
    raise AssertionError(f"{n_threads()} threads are left, of {n} at most")


def test_a_decoding_thread_has_a_team_until_it_gives_it_back(tiny: Model) -> None:
    before = n_threads()
    context = Context(tiny, n_ctx=64, n_threads=2)
    until(before)  # making a context decodes, and leaves nothing
    context.decode(ROWS)
    assert n_threads() == before + 1
    threads.give_back()
    until(before)
    context.close()


def test_cells_leave_no_team_behind(tiny: Model) -> None:
    before = n_threads()
    context = Context(tiny, n_ctx=64, n_threads=2)
    for _ in Reader(context).decode(ROWS):
        assert n_threads() == before + 1
    until(before)
    context.close()


def test_an_idle_engine_holds_no_team(tiny: Model) -> None:
    engine = Engine(tiny, n_ctx=64, n_threads=2)
    before = threading.active_count(), n_threads()
    prompt = Prompt(tuple(range(100, 108)))
    assert len(list(engine.generate(Request(prompt, max_tokens=4)))) >= 1
    until(before[1] + threading.active_count() - before[0])
    engine.close()
