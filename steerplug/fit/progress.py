"""Work of many steps: how it says where it is, one after another or many at once.

Doors may turn what they are told into a progress bar.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Report = Callable[[str, float, int], None]
"""Called with what is being done, how many steps are done, and how many there are.

Where steps are done side by side, parts of them may be counted."""

AT_ONCE = 32
"""So many are asked side by side."""
_LOOK = 0.5
"""Seconds between two looks at how far they are."""


def silent(_what: str, _done: float, _total: int) -> None:
    """Report nothing."""


def in_turn(named: Mapping[str, Item], report: Report) -> Iterator[tuple[str, Item, Report]]:
    """Yield names and items that are gone through in turn, and what each reports to.

    Their steps are counted together, as each of them has as many as the others.
    """
    n_parts = len(named)

    def part(i: int, what: str, done: float, total: int) -> None:
        report(what, i * total + done, n_parts * total)

    for i, (name, item) in enumerate(named.items()):
        yield name, item, partial(part, i)


def steps(
    items: Sequence[Item], what: str, report: Report, *, before: int = 0
) -> Iterable[Item]:
    """Yield items, reporting before each and after the last; `before` more had been done."""
    total = before + len(items)

    def counted() -> Iterator[Item]:
        for done, item in enumerate(items, before):
            report(what, done, total)
            yield item
        report(what, total, total)

    return counted()


def at_once(
    ask: Callable[[Item], Result],
    items: Sequence[Item],
    what: str = "",
    report: Report = silent,
    *,
    before: int = 0,
    part: Callable[[Item], float] | None = None,
) -> list[Result]:
    """Return `ask` of every item, in order; the engine decodes what it is asked together.

    `before` says how many more there are, which had been asked earlier, and `part` how much of an
    item that is being asked is done, 0 to 1.

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

    for _ in range(min(AT_ONCE, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        if part is None:
            return [reply.result() for reply in steps(replies, what, report, before=before)]
        _watch(replies, [partial(part, item) for item in items], what, report, before)
        results = [reply.result() for reply in replies]
        report(what, before + len(items), before + len(items))
        return results
    finally:
        waiting.clear()


def _watch(
    replies: Sequence[Future[Result]], parts: Sequence[Callable[[], float]], what: str,
    report: Report, before: int,
) -> None:  # fmt: skip
    """Report again and again until all are there; raise the error of one that failed."""
    running = set(range(len(replies)))
    while running:
        done = len(replies) - len(running) + sum(parts[i]() for i in running)
        report(what, before + done, before + len(replies))
        wait([replies[i] for i in running], _LOOK, FIRST_COMPLETED)
        for i in [i for i in running if replies[i].done()]:
            replies[i].result()
            running.remove(i)
