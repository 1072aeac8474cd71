"""What tests of the engine share: the rows that it decodes, and a brake."""

import threading
from collections.abc import Iterator

import pytest

from steerplug.engine.context import Context, Row
from steerplug.engine.scheduler import Scheduler
from tests.helpers.asking import Rows


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """The rows of every decode."""
    rows: Rows = []
    decode = Context.decode

    def watched(self: Context, batch: list[Row], *args: object, **kwargs: object) -> object:
        rows.append(list(batch))
        return decode(self, batch, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Context, "decode", watched)
    return rows


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Steps wait for this event, so that requests can gather."""
    go, step = threading.Event(), Scheduler.step

    def waiting(self: Scheduler) -> None:
        go.wait(30)
        step(self)

    monkeypatch.setattr(Scheduler, "step", waiting)
    yield go
    go.set()
