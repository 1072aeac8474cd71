"""Tokens through bare contexts: what the hook costs by itself, and what a change of steering costs.

Contexts on one model take turns token by token: without the hook; with it, nothing steered; with a
gate at every block of every row, and the same by llama.cpp's callback where devices steer by
themselves. A token takes until its logits are there. Where in memory a context comes to lie moves
its speed by a percent or so, as much as the hook costs; therefore each round opens new ones.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager

from steerplug.benchmark.gates import gates
from steerplug.benchmark.peers import ControlVector
from steerplug.benchmark.turns import Task, Way
from steerplug.engine import routes
from steerplug.engine.context import Context
from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.steering.value import Mix

PREFILL, PREFIX, DECODE = 256, 32, 48
NO_HOOK, IDLE, STEERED = "no hook", "hook, nothing steered", "hook, every block steered"
BY_CALLBACK = "callback, every block steered"
KEPT, SWITCHED = "steered, one preset", "steered, another at every token"
STOCK_KEPT, STOCK_SWITCHED = "control vector, kept", "control vector, set at every token"


class _Walk:
    """A context that decodes one token after the other; each call returns the seconds of the next.

    The steering of a batch is asked for by the position after its last token.
    """

    def __init__(
        self, opened: Callable[[], Context], steering: Callable[[int], RowSteering | None]
    ) -> None:
        self._opened, self._steering = opened, steering
        self._context: Context | None = None
        self.position = 0

    @property
    def context(self) -> Context:
        """The one it walks in, opened when first asked for."""
        if self._context is None:
            self._context = self._opened()
        return self._context

    def begin(self) -> None:
        """Start anew, behind a few tokens."""
        self.context.clear()
        self.position = 0
        self(PREFIX)

    def close(self) -> None:
        """Free the context; the next step is in another."""
        if self._context is not None:
            self._context.close()
            self._context = None

    def __call__(self, n: int = 1) -> float:
        begin, end = self.position, self.position + n
        self.position = end
        what = self._steering(end)
        rows = [Row(100 + p, p, p == end - 1, what) for p in range(begin, end)]
        start = time.perf_counter()
        self.context.decode(rows)
        self.context.logits_in_place(n - 1)
        return (time.perf_counter() - start) / n

    def prefill(self) -> float:
        """Start anew with a long prompt; return the seconds of each of its tokens."""
        self.context.clear()
        self.position = 0
        return self(PREFILL)


@contextmanager
def prefill(model: Model) -> Iterator[Task]:
    """Prompts of 256 tokens."""
    with _walks(model) as walks:
        ways: dict[str, Way] = {name: walk.prefill for name, walk in walks.items()}
        yield Task("prefill", ways, prepare=lambda: _begin(walks.values()))


@contextmanager
def decode(model: Model) -> Iterator[Task]:
    """Single tokens."""
    with _walks(model) as walks:
        yield Task("decode", walks, DECODE, lambda: _begin(walks.values()))


@contextmanager
def switch(model: Model) -> Iterator[Task]:
    """Single tokens, with the steering changed before each; a control vector set likewise."""
    presets = [lay_out(Mix.of(gates(model, seed))) for seed in (0, 1)]
    vectors = [ControlVector(model, seed) for seed in (0, 1)]

    def stock() -> Context:
        context = _context(model, hooked=False)
        vectors[0].set(context)
        return context

    def set_and_walk() -> float:
        walk = walks[STOCK_SWITCHED]
        start = time.perf_counter()
        vectors[walk.position % 2].set(walk.context)
        return time.perf_counter() - start + walk()

    walks = {
        KEPT: _Walk(lambda: _context(model), lambda _: presets[0]),
        SWITCHED: _Walk(lambda: _context(model), lambda n: presets[n % 2]),
        STOCK_KEPT: _Walk(stock, lambda _: None),
        STOCK_SWITCHED: _Walk(stock, lambda _: None),
    }
    with _closing(walks):
        ways: dict[str, Way] = {**walks, STOCK_SWITCHED: set_and_walk}
        yield Task("switch", ways, DECODE, lambda: _begin(walks.values()))


@contextmanager
def _walks(model: Model) -> Iterator[dict[str, _Walk]]:
    steered = lay_out(Mix.of(gates(model)))
    walks = {
        NO_HOOK: _Walk(lambda: _context(model, hooked=False), lambda _: None),
        IDLE: _Walk(lambda: _context(model), lambda _: None),
        STEERED: _Walk(lambda: _context(model), lambda _: steered),
    }
    with closing(_context(model)) as context:
        if context.route == "device":
            walks[BY_CALLBACK] = _Walk(lambda: _context(model, on_device=False), lambda _: steered)
    with _closing(walks):
        yield walks


def _context(
    model: Model, *, on_device: bool | None = None, hooked: bool = True
) -> Context:
    context = Context(model, n_ctx=1024, on_device=on_device, hooked=hooked)
    context.hook.tells_later = True  # as an engine has it
    return context


def where(model: Model) -> str:
    """Say which devices compute a model's blocks, and by which route they are steered."""
    with closing(_context(model)) as context:
        lie = ", ".join(f"{name} ({n} blocks)" for name, n in routes.names(model).items())
        return f"{lie}; steered by {context.route}"


def _begin(walks: Iterable[_Walk]) -> None:
    in_any_order = list(walks)
    random.shuffle(in_any_order)
    for walk in in_any_order:
        walk.close()
    for walk in in_any_order:
        walk.begin()


@contextmanager
def _closing(walks: Mapping[str, _Walk]) -> Iterator[None]:
    try:
        yield
    finally:
        for walk in walks.values():
            walk.close()
