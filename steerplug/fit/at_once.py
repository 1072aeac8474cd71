"""Asking the engine many things at once: it decodes what runs together in one batch."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from steerplug.fit.progress import Report, silent, steps

Item = TypeVar("Item")
Result = TypeVar("Result")

_AT_ONCE = 32


def at_once(
    ask: Callable[[Item], Result], items: Sequence[Item], what: str = "", report: Report = silent
) -> list[Result]:
    """Return `ask` of every item, in order, with several of them asked at the same time.

    The first error, or Ctrl-C, ends it: what has not begun is not asked any more.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = [pool.submit(ask, item) for item in items]
        try:
            return [one.result() for one in steps(asked, what, report)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
