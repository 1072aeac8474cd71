"""Replies in the making, counted: what gives way to them is told before the first begins."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Activity:
    """How busy a session is, or several that share a machine and say so."""

    def __init__(self) -> None:
        self._on_busy: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._running, self._last = 0, time.monotonic()
        self.turn = threading.Lock()
        """Held by whoever uses idle time; only one does."""

    def when_busy(self, give_way: Callable[[], None]) -> None:
        """Have this called when a reply begins and none was being made, before it does."""
        self._on_busy.append(give_way)

    @contextmanager
    def reply(self) -> Iterator[None]:
        """Count a reply while it is being made."""
        with self._lock:
            self._running += 1
            is_first = self._running == 1
        if is_first:
            for give_way in self._on_busy:
                give_way()
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                self._last = time.monotonic()

    def idle_for(self) -> float:
        """Return how many seconds ago the last reply ended; 0 while one is being made."""
        with self._lock:
            return 0.0 if self._running else time.monotonic() - self._last
