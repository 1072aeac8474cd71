"""`steerplug build --all`: every preset there is, for one model; what was built before is kept."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from steerplug.commands.building import duration
from steerplug.commands.exit_codes import FAILED
from steerplug.commands.output import add_names, complain, print_json, say, screen
from steerplug.errors import SteerplugError
from steerplug.store.figures import Figures

if TYPE_CHECKING:
    from steerplug.preset import Preset

Build = Callable[["Preset", int], dict[str, Any]]
"""Builds a preset, behind which so many more are to be built; returns its report."""


@dataclass(frozen=True)
class Outcome:
    """What came of one preset: its report as `steerplug build --json` gives it, or why not.

    `model` says for which model, where there are several.
    """

    preset: str
    report: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    model: str = ""

    @property
    def state(self) -> str:
        """Say in a word what came of it."""
        if self.error is not None:
            return "failed"
        if "from_cache" not in self.report:
            return "measured"
        return "kept" if self.report["from_cache"] else "built"


def build_all(
    build: Build, is_missing: Callable[["Preset"], bool], model: str, as_json: bool
) -> None:
    """Build every preset of the library with `build`, and show what came of each.

    A preset that cannot be built does not stop the others; the command then ends with code 2.
    """
    show_all(list(_outcomes(build, is_missing)), model, as_json)


def show_all(outcomes: list[Outcome], model: str, as_json: bool) -> None:
    """Show what came of presets for a model, or for several, which outcomes then name.

    Raises:
        Exit: one failed.
    """
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if as_json:
        print_json({
            "model": model,
            "presets": [
                {
                    "preset": outcome.preset, "state": outcome.state, "error": outcome.error,
                    **({"model": outcome.model} if outcome.model else {}), **outcome.report,
                }
                for outcome in outcomes
            ],
            "n_failed": len(failed),
        })  # fmt: skip
    else:
        _show(outcomes)
        for outcome in failed:
            of_model = f" for {outcome.model}" if outcome.model else ""
            complain(f"`{outcome.preset}` was not built{of_model}: {outcome.error}")
    if failed:
        raise typer.Exit(FAILED)


def _outcomes(build: Build, is_missing: Callable[["Preset"], bool]) -> Iterator[Outcome]:
    from steerplug.library.presets import list_presets

    listed = list_presets()
    missing = {each.name for each in listed if each.preset and is_missing(each.preset)}
    for i, listing in enumerate(listed, 1):
        begin = time.perf_counter()
        missing.discard(listing.name)
        try:
            if listing.preset is None:
                outcome = Outcome(listing.name, error=listing.error or "it cannot be read.")
            else:
                outcome = Outcome(listing.name, build(listing.preset, len(missing)))
        except SteerplugError as error:
            outcome = Outcome(listing.name, error=str(error))
        seconds = time.perf_counter() - begin
        took = f" in {duration(seconds)}" if outcome.state == "built" else ""
        say(f"[{i}/{len(listed)}] {listing.name}: {outcome.state}{took}")
        yield outcome


def _show(outcomes: list[Outcome]) -> None:
    console = screen()
    names = [f"{one.preset} on {one.model}" if one.model else one.preset for one in outcomes]
    rows = [
        (name, one.state, *_figures(one.report)) for name, one in zip(names, outcomes, strict=True)
    ]
    if not console.is_terminal:
        for row in rows:
            print("\t".join(row))
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    add_names(table, "preset", names)
    for title in ("", "gap closed (95 %)", "checks kept", "tokens saved"):
        side: JustifyMethod = "right" if title else "left"
        table.add_column(title, no_wrap=True, justify=side)
    for outcome, (name, *rest) in zip(outcomes, rows, strict=True):
        table.add_row(Text(name, "bold red" if outcome.error else "bold cyan"), *rest)
    console.print(table)


def _figures(report: dict[str, Any]) -> tuple[str, str, str]:
    claimed_by = report.get("claimed_by") or ""
    return Figures(report.get("fingerprint", ""), report.get("fidelity", {}), claimed_by).cells()
