"""Forked processes: what was carried over into a child, and begins anew there.

A fork copies all memory and one thread. In the child, threads that ran beside it are gone, locks
they held stay locked, and GNU's OpenMP would wait for ever for the team of the thread that forked.
So engines are brought between two steps before a fork, the team is given back, and whoever said
so with `carry` is told in the child, before anything else runs there.
"""

import os
import threading
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from steerplug.engine import threads


class Carried(Protocol):
    """What a fork carries over."""

    def before_fork(self) -> None:
        """Come to rest; the next call is `after_fork`."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on in the parent, or begin anew in the child."""


_carried: WeakSet[Carried] = WeakSet()
_resting: list[Carried] = []
_forking = threading.Lock()


def carry(what: Carried) -> None:
    """Have something told of each fork, as long as it lives."""
    _carried.add(what)


def in_child(renew: Callable[[], None]) -> None:
    """Have this called in each child, for locks and threads that a module holds."""
    if hasattr(os, "register_at_fork"):  # Windows knows no forks
        os.register_at_fork(after_in_child=renew)


def _before() -> None:
    _forking.acquire()
    _resting.extend(_carried)
    for what in _resting:
        what.before_fork()
    threads.give_back()


def _after(*, in_child: bool) -> None:
    resting = list(_resting)
    _resting.clear()
    for what in resting:
        what.after_fork(in_child=in_child)
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=lambda: _after(in_child=False),
        after_in_child=lambda: _after(in_child=True),
    )
