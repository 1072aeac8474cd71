"""How pieces of replies get from the worker to who reads them, waking nobody more than needed.

Waking a reader takes a processor from the decode that goes on beside it.
"""

import asyncio
from collections import deque
from contextlib import suppress
from weakref import WeakKeyDictionary

from steerplug.engine.generation import Deliver, Item
from steerplug.engine.request import Piece


def at_the_end(deliver: Deliver) -> Deliver:
    """Return what keeps pieces back until the reply has ended."""
    kept: list[Piece] = []

    def keep(item: Item) -> None:
        if isinstance(item, Piece):
            kept.append(item)
            return
        for piece in kept:
            deliver(piece)
        deliver(item)

    return keep


def to_loop(loop: asyncio.AbstractEventLoop, deliver: Deliver) -> Deliver:
    """Return what hands items over in the thread of an event loop, in their order.

    All replies that one loop reads share one wake-up: a step of the batch hands over one piece of
    each.
    """
    post = _posts.setdefault(loop, _Post())

    def send(item: Item) -> None:
        post.items.append((deliver, item))
        if not post.is_called:
            post.is_called = True
            with suppress(RuntimeError):  # the loop is gone, and its readers with it
                loop.call_soon_threadsafe(post.bring)

    return send


class _Post:
    """Items on their way to one event loop."""

    def __init__(self) -> None:
        self.items: deque[tuple[Deliver, Item]] = deque()
        self.is_called = False

    def bring(self) -> None:
        self.is_called = False  # before the items: one that comes meanwhile calls again
        while self.items:
            deliver, item = self.items.popleft()
            deliver(item)


_posts: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Post]" = WeakKeyDictionary()
