"""Replies in the making, counted: what gives way to them is told before the first begins."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Activity:
    """How busy a session is.

    Args:
        on_busy: called when a reply begins and none was being made, before it does.
    """

    def __init__(self, on_busy: Callable[[], None]) -> None:
        self._on_busy, self._lock = on_busy, threading.Lock()
        self._running, self._last = 0, time.monotonic()

    @contextmanager
    def reply(self) -> Iterator[None]:
        """Count a reply while it is being made."""
        with self._lock:
            self._running += 1
            is_first = self._running == 1
        if is_first:
            self._on_busy()
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
