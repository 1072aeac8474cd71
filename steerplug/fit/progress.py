"""Work of many steps: how it says where it is, one after another or many at once.

Doors may turn what they are told into a progress bar.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

    The first error, or Ctrl-C, ends it: what has not begun is not asked any more.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = [pool.submit(ask, item) for item in items]
        try:
            return [reply.result() for reply in steps(asked, what, report)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
