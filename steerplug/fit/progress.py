"""How long work says where it is: a function that doors may turn into a progress bar."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""


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
