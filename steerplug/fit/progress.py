"""Work of many steps: how it says where it is, one after another or many at once.

Doors may turn what they are told into a progress bar.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""

_AT_ONCE = 32


def silent(_what: str, _done: int, _total: int) -> None:
    """Report nothing."""


def steps(items: Sequence[Item], what: str, report: Report) -> Iterable[Item]:
    """Yield items, reporting before each and after the last."""

    def counted() -> Iterator[Item]:
        for done, item in enumerate(items):
            report(what, done, len(items))
            yield item
        report(what, len(items), len(items))

    return counted()


def at_once(
    ask: Callable[[Item], Result], items: Sequence[Item], what: str = "", report: Report = silent
) -> list[Result]:
    """Return `ask` of every item, in order; the engine decodes what it is asked together.

    The first error, or Ctrl-C, ends it at once: what has not begun is not asked any more, and what
    is being answered is left to its thread, which dies with the process.
    """
    replies: list[Future[Result]] = [Future() for _ in items]
    waiting = deque(zip(replies, items, strict=True))

    def work() -> None:
        while waiting:
            try:
                reply, item = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                reply.set_result(ask(item))
            except BaseException as error:
                reply.set_exception(error)

    for _ in range(min(_AT_ONCE, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        return [reply.result() for reply in steps(replies, what, report)]
    finally:
        waiting.clear()
