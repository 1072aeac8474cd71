"""How far a build is, on stderr: one bar over all of it on a terminal, else a line for each stage.

What it will take is said once, as soon as enough was seen to say so.
"""

import time
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from steerplug.commands.output import say, screen
from steerplug.commands.stopping import ending_soon
from steerplug.fit.whole import Standing, Whole


class Building:
    """A progress report; Ctrl-C ends the process soon while it is shown.

    Use it around what may build a preset; nothing shows up if everything was built before.

    Args:
        first: what to say when work begins.
        behind: how many more builds follow, each of which may take as long.
    """

    def __init__(self, first: str, behind: int = 0) -> None:
        self._first, self._behind = first, behind
        self._stage = ""
        self._is_told = False
        self._bar: Progress | None = None
        self._left = _Left()
        self._console = screen(stderr=True)
        self._at_the_end = ExitStack()

    def __enter__(self) -> Whole:
        self._at_the_end.enter_context(ending_soon())
        return Whole(self._show)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._at_the_end.close()
        self._bar, self._stage = None, ""

    def _show(self, standing: Standing) -> None:
        if not self._stage:
            say(self._first)
        if standing.seconds_left is not None and not self._is_told:
            self._is_told = True
            say(f"  {_expected(standing, self._behind)}")
        if self._console.is_terminal:
            self._move(standing)
        elif standing.what != self._stage:
            say(f"  {standing.what} ...")
        self._stage = standing.what

    def _move(self, standing: Standing) -> None:
        if self._bar is None:
            self._bar = self._at_the_end.enter_context(_bar(self._console, self._left))
            self._bar.add_task("", total=None)
        if standing.seconds_left is not None:
            self._left.say(_whole(standing, self._behind))
        what, total = f"{standing.what} {standing.done}/{standing.total}", None
        if standing.seconds_left is not None:
            total = 1.0 + self._behind
        task = self._bar.tasks[0]
        self._bar.update(task.id, description=what, completed=standing.share, total=total)


class _Left(ProgressColumn):
    """The time left, which goes on falling between two steps."""

    def __init__(self) -> None:
        super().__init__()
        self._end: float | None = None

    def say(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def render(self, task: Task) -> Text:
        passed = f"{task.elapsed or 0:.0f} s"
        if self._end is None:
            return Text(passed, "dim")
        return Text(f"{passed}, {duration(max(self._end - time.monotonic(), 1))} left", "dim")


def _bar(console: Console, left: ProgressColumn) -> Progress:
    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        left,
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
    )


def _whole(standing: Standing, behind: int) -> float:
    """Return the seconds left of a build and those behind it."""
    left = standing.seconds_left or 0.0
    return left + behind * left / max(1 - standing.share, 1e-3)


def _expected(standing: Standing, behind: int) -> str:
    plan = standing.plan
    assert plan is not None
    memory = f" and {plan.n_bytes / 1e9:.1f} GB of memory" if plan.n_bytes else ""
    all_of_it = f"; {duration(_whole(standing, behind))} with those behind it" if behind else ""
    return f"By {plan.method}: about {duration(standing.seconds_left or 0)}{memory}{all_of_it}."


def duration(seconds: float) -> str:
    """Say a time as people do, to two figures: `40 s`, `4 min`, `1.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
