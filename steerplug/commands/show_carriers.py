"""What carries each preset on a model: `steerplug presets -m MODEL`."""

import shlex
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from steerplug.commands.open_model import opened
from steerplug.commands.output import add_names, print_json, screen
from steerplug.engine.loading import Loading
from steerplug.errors import SteerplugError

if TYPE_CHECKING:
    from steerplug.library.presets import Listing
    from steerplug.session import Session

_HOW = (
    "A prompt costs its tokens in each request; `steerplug build NAME -m {model}` makes it "
    "steering, which costs none and has a strength."
)


def show_carriers(
    model: str, loading: Loading, listings: "list[Listing]", as_json: bool
) -> None:
    """Show what carries each preset on a model."""
    with opened(model, loading) as session:
        rows = [_carried(session, listing) for listing in listings]
    console = screen()
    if as_json:
        print_json({"model": model, "presets": rows})
    elif console.is_terminal:
        console.print(_carriers(rows))
        if any(row["carrier"] == "prompt" for row in rows):
            console.print(Text(f"\n{_HOW.format(model=shlex.quote(model))}", "dim"))
    else:
        for row in rows:
            print("\t".join(_cells(row)))


def _carried(session: "Session", listing: "Listing") -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": listing.name, "carrier": "-", "prompt_tokens": "-", "reason": "",
        "quick": False,
    }  # fmt: skip
    if listing.preset is None:
        return {**row, "reason": listing.error}
    try:
        carrying = session.carrying(listing.preset)
    except SteerplugError as error:
        return {**row, "reason": str(error)}
    tokens = carrying.n_tokens if carrying.carrier == "prompt" else 0
    return {
        **row, "carrier": carrying.carrier or "-", "prompt_tokens": tokens,
        "reason": carrying.reason,
        "quick": carrying.built is not None and carrying.built.is_quick,
    }  # fmt: skip


def _cells(row: dict[str, Any]) -> list[str]:
    why = row["reason"] or ("of a quick fit" if row["quick"] else "")
    return [str(cell) for cell in (row["name"], row["carrier"], row["prompt_tokens"], why)]


def _carriers(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    add_names(table, "preset", [row["name"] for row in rows])
    table.add_column("carried by", no_wrap=True)
    table.add_column("tokens", justify="right")
    cells = [_cells(row) for row in rows]
    if any(why for *_, why in cells):
        table.add_column("why", ratio=1)
    for name, *others in cells:
        table.add_row(Text(name, "bold cyan"), *others[: len(table.columns) - 1])
    return table
