"""Requests to an engine, and readers of their replies on threads of their own."""

import threading
from collections.abc import Sequence

from steerplug.engine.engine import Engine, Piece, Progress, Request
from steerplug.engine.rows import Row
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.steering.value import NOTHING, Mix
from tests.helpers.alone import until

GREEDY = Sampling(temperature=0)
Rows = list[list[Row]]


def asks(
    prompt: Prompt, mix: Mix = NOTHING, max_tokens: int | None = 10, **settings: object
) -> Request:
    settings.setdefault("sampling", GREEDY)
    return Request(prompt, mix, max_tokens=max_tokens, **settings)  # type: ignore[arg-type]


class Reader(threading.Thread):
    """Reads one reply on a thread of its own."""

    def __init__(self, engine: Engine, request: Request) -> None:
        super().__init__()
        self.engine, self.request, self.progress = engine, request, Progress()
        self.pieces: list[Piece] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.pieces.extend(self.engine.generate(self.request, self.progress))
        except BaseException as error:
            self.error = error

    def done(self) -> "Reader":
        self.join(60)
        assert not self.is_alive()
        if self.error:
            raise self.error
        return self

    @property
    def tokens(self) -> list[int]:
        return [piece.token for piece in self.pieces if piece.token is not None]


def read_all(
    engine: Engine, requests: Sequence[Request], held_back: threading.Event
) -> list[Reader]:
    """Let all requests begin in the same step, in this order."""
    readers = []
    for i, request in enumerate(requests):
        readers.append(Reader(engine, request))
        until(lambda n=i + 1: engine.metrics().n_waiting + engine.metrics().n_running >= n)
    held_back.set()
    return [reader.done() for reader in readers]
