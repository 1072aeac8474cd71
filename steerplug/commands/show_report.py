"""A report as tables, or as JSON: what `steerplug eval --turns` and its like print."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from steerplug.commands.output import print_json, put, screen

if TYPE_CHECKING:
    from steerplug.evaluate import tables as reported

_WIDEST = 500


def show_report(report: Mapping[str, Any], as_json: bool) -> None:
    """Print a report as JSON, or as tables."""
    from steerplug.evaluate.tables import tables

    if as_json:
        print_json(report)
        return
    for table in tables(report):
        put(table.about)
        _print_whole(table)


def _print_whole(table: "reported.Table") -> None:
    """Print a table in which no figure is cut off, wider than the terminal where it has to be.

    Where a terminal has no room for it, intervals go below their figures.
    """
    console = screen()
    width = _width(drawn := _drawn(table, " ("), console)
    if console.is_terminal and width > console.width:
        width = _width(drawn := _drawn(table, "\n("), console)
    console.width = max(console.width, width)
    console.print(drawn)


def _drawn(table: "reported.Table", before_interval: str) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD)
    for i, title in enumerate(table.titles):
        drawn.add_column(title, justify="right" if i else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(cell.replace(" (", before_interval) for cell in row))
    return drawn


def _width(drawn: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=_WIDEST), drawn).maximum
