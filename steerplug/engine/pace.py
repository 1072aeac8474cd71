"""How fast a model decodes here, by the number of threads: measured, for no rule tells.

With more threads than processors that are free for them, ggml's threads spin against each other. A
second llama.cpp in the process has a team of threads of its own, and where both have more than
there are processors, GNU's OpenMP lets neither spin: every operation ends in sleep and waking.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from steerplug.engine import threads
from steerplug.engine.context import Context
from steerplug.engine.model import Model
from steerplug.engine.processors import n_processors
from steerplug.engine.rows import Row

_TOKENS, _SECONDS = 24, 1.0
_CLEARLY = 1.15


@dataclass(frozen=True)
class Pace:
    """Milliseconds a token, by the number of threads.

    Args:
        default: how many threads are taken where nobody says.
        alone: by number of threads.
        beside: the same while another context in the process has as many threads as `default`.
    """

    default: int
    alone: dict[int, float]
    beside: dict[int, float]

    def __str__(self) -> str:
        """Say which number is best here."""
        best, ms = _best(self.alone, self.default)
        others = ", ".join(f"{n}: {at:.1f}" for n, at in self.alone.items() if n != best)
        is_default = ", the default," if best == self.default else ""
        sentence = f"n_threads = {best}{is_default} is best here"
        sentence += f": {ms:.1f} ms a token" + (f" ({others})" if others else "")
        if (slow := self.beside.get(self.default)) and slow > _CLEARLY * self.alone[self.default]:
            best, ms = _best(self.beside, self.default)
            sentence += f"; beside another llama.cpp in the process {slow:.1f} ms"
            sentence += f", with n_threads = {best} {ms:.1f}" if best != self.default else ""
        return sentence


def measure(model: Model) -> Pace:
    """Return how fast a model decodes on this machine at this moment."""
    n = n_processors()
    alone = {n_threads: _ms(model, n_threads) for n_threads in sorted({1, max(n // 2, 1), n})}
    with _another(model, n):
        beside = {n_threads: _ms(model, n_threads) for n_threads in sorted({max(n - 1, 1), n})}
    return Pace(n, alone, beside if n > 1 else {})


def _best(measured: dict[int, float], default: int) -> tuple[int, float]:
    """Return the fastest number of threads; the default unless another is clearly faster."""
    n = min(measured, key=lambda n: measured[n])
    return (n, measured[n]) if measured[default] > _CLEARLY * measured[n] else (
        default, measured[default]
    )


def _ms(model: Model, n_threads: int) -> float:
    """Return the median time of a token, in milliseconds."""
    context = Context(model, n_ctx=_TOKENS + 1, n_threads=n_threads)
    try:
        times, begin = list[float](), time.perf_counter()
        for position in range(_TOKENS):
            before = time.perf_counter()
            context.decode([Row(0, position, output=True)])
            times.append(1000 * (time.perf_counter() - before))
            if time.perf_counter() - begin > _SECONDS and len(times) > 1:
                break
        return median(times[1:])
    finally:
        threads.give_back()
        context.close()


@contextmanager
def _another(model: Model, n_threads: int) -> Iterator[None]:
    """Keep another thread that has decoded, and with it its team."""
    ready, done = threading.Event(), threading.Event()

    def decode_once() -> None:
        try:
            context = Context(model, n_ctx=8, n_threads=n_threads)
            context.decode([Row(0, 0, output=True)])
            ready.set()
            done.wait()
            threads.give_back()
            context.close()
        finally:
            ready.set()

    thread = threading.Thread(target=decode_once, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()
