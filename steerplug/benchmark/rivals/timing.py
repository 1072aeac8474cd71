"""What carriers cost: the first token of a reply, and those after it, in turns.

    first token, held    what does not depend on the question is in the cache: the prompt, the
                         cells in front, and the part of the chat before the question
    first token, new     nothing is; a soft prompt is decoded, cells on disk are restored
    decode               tokens one by one behind the chat, its cells and what is in front

The bare chat is the first way of each, with which the others are compared.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from steerplug.benchmark.rivals.carrier import Carrier
from steerplug.benchmark.turns import Task
from steerplug.engine.reader import reply_rows
from steerplug.engine.scope import Prompt

DECODED = 16
HELD, NEW, DECODE = "first token, held", "first token, new", "decode"


@dataclass(frozen=True)
class Timed:
    """A carrier, and what it reads.

    Args:
        carrier: the carrier.
        prompt: a chat that is timed.
        before: another one, which left its cells.
    """

    carrier: Carrier
    prompt: Prompt
    before: Prompt

    def held(self) -> float:
        """Return the seconds to the first token behind what is held."""
        rows = reply_rows(self.before, (), self.carrier.mix)
        self.carrier.reader.hold(rows)
        return self._first()

    def new(self) -> float:
        """Return the seconds to the first token when nothing is held."""
        self.carrier.context.forget()
        start = time.perf_counter()
        self.carrier.begin()
        return time.perf_counter() - start + self._first()

    def decode(self) -> float:
        """Return the seconds of a token behind the chat."""
        reply = [self.carrier.read(self.prompt)]
        start = time.perf_counter()
        for _ in range(DECODED):
            reply.append(self.carrier.next(self.prompt, reply))
        return (time.perf_counter() - start) / DECODED

    def _first(self) -> float:
        start = time.perf_counter()
        self.carrier.read(self.prompt)
        return time.perf_counter() - start


@contextmanager
def held(timed: Mapping[str, Timed]) -> Iterator[Task]:
    """The first token, with what is its own in the cache."""
    yield Task(HELD, {name: each.held for name, each in timed.items()})


@contextmanager
def new(timed: Mapping[str, Timed]) -> Iterator[Task]:
    """The first token, with nothing in the cache."""
    yield Task(NEW, {name: each.new for name, each in timed.items()})


@contextmanager
def decode(timed: Mapping[str, Timed]) -> Iterator[Task]:
    """Single tokens."""
    yield Task(DECODE, {name: each.decode for name, each in timed.items()})
