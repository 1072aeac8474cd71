"""How far a build is, on stderr: one bar over all of it on a terminal, else a line for each stage.

What it will take is said once, by a first guess before the work begins; the bar knows better as it
goes on.
"""

import sys
import time
from contextlib import ExitStack
from types import TracebackType

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from steerplug.commands.output import put, screen
from steerplug.commands.stopping import ending_soon
from steerplug.fit.estimated_progress import EstimatedProgress, Plan, Standing


def can_ask() -> bool:
    """Say whether somebody is here to be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask() -> None:
    """Ask whether to build.

    Raises:
        typer.Exit: it is not to be built.
    """
    if not typer.confirm("Build it now?", err=True):
        raise typer.Exit()


class Building:
    """A progress report; Ctrl-C ends the process soon while it is shown.

    Use it around what may build a preset; nothing shows up if everything was built before.

    Args:
        first: what to say when work begins.
        behind: how many more builds follow, each of which may take as long.
        asks: whether to ask before the work begins; a no ends the command.
    """

    def __init__(self, first: str, behind: int = 0, *, asks: bool = False) -> None:
        self._first, self._behind, self._asks = first, behind, asks
        self._stage = ""
        self._is_told = False
        self._bar: Progress | None = None
        self._left = _Left()
        self._console = screen(stderr=True)
        self._at_the_end = ExitStack()

    def __enter__(self) -> EstimatedProgress:
        self._at_the_end.enter_context(ending_soon())
        return EstimatedProgress(self._show, agree=self._agree)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._at_the_end.close()
        self._bar, self._stage = None, ""

    def _agree(self, plan: Plan) -> None:
        """Say at the first plan what all will take, and ask if somebody is to be asked."""
        if self._is_told:
            return
        self._is_told = True
        if self._bar is not None:
            self._bar.stop()
        self._begin()
        self._say(f"{'' if self._asks else '  '}{_expected(plan, self._behind)}")
        if self._asks:
            ask()
        if self._bar is not None:
            self._bar.start()

    def _begin(self) -> None:
        """Say what begins, once."""
        if self._first:
            self._say(self._first)
        self._first = ""

    def _show(self, standing: Standing) -> None:
        self._begin()
        if self._console.is_terminal:
            self._move(standing)
        elif standing.what != self._stage:
            self._say(f"  {standing.what} ...")
        self._stage = standing.what

    def _say(self, sentence: str) -> None:
        """Say a sentence, above the bar if there is one."""
        put(Text(sentence, "dim"), console=self._console)

    def _move(self, standing: Standing) -> None:
        if self._bar is None:
            self._bar = self._at_the_end.enter_context(_bar(self._console, self._left))
            self._bar.add_task("", total=None)
        if standing.seconds_left is not None:
            self._left.say(_whole(standing, self._behind))
        share, total = standing.share, None if standing.seconds_left is None else 1.0 + self._behind
        if standing.plan is None:
            share, total = standing.done, float(standing.total)
        what = f"{standing.what} {standing.done}/{standing.total}"
        self._bar.update(self._bar.tasks[0].id, description=what, completed=share, total=total)


class _Left(ProgressColumn):
    """The time passed, and the time left, which goes on falling between two steps."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._end: float | None = None

    def say(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def render(self, _task: Task) -> Text:
        passed = clock(time.monotonic() - self._began)
        if self._end is None:
            return Text(passed, "dim")
        return Text(f"{passed}, {clock(max(self._end - time.monotonic(), 1))} left", "dim")


def _bar(console: Console, left: ProgressColumn) -> Progress:
    return Progress(
        SpinnerColumn("line" if console.options.ascii_only else "dots"),
        BarColumn(bar_width=14),
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


def _expected(plan: Plan, behind: int) -> str:
    seconds = sum(stage.seconds for stage in plan.stages)
    memory = f" and {plan.n_bytes / 1e9:.1f} GB of memory" if plan.n_bytes else ""
    all_of_it = f"; {duration((1 + behind) * seconds)} with those behind it" if behind else ""
    about = f"By {plan.method}: about" if plan.method else "About"
    return f"{about} {duration(seconds)}{memory}{all_of_it}."


def duration(seconds: float) -> str:
    """Say a time as people do, to two figures: `40 s`, `4 min`, `1.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def clock(seconds: float) -> str:
    """Say a time as a clock does that is looked at again and again: `0:40`, `4:05`, `1:30:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
