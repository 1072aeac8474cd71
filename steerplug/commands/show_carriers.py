"""What carries each preset on a model: `steerplug presets -m MODEL`."""

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from steerplug.commands.open_model import opened
from steerplug.commands.output import print_json, screen
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
        console.print(Text(f"\n{_HOW.format(model=model)}", "dim"))
    else:
        for row in rows:
            print("\t".join(str(value) for value in row.values()))


def _carried(session: "Session", listing: "Listing") -> dict[str, Any]:
    row: dict[str, Any] = {"name": listing.name, "carrier": "-", "prompt_tokens": "-", "reason": ""}
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
    }  # fmt: skip


def _carriers(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    for title in ("preset", "carried by"):
        table.add_column(title, no_wrap=True)
    table.add_column("tokens", justify="right")
    table.add_column("why", ratio=1)
    for row in rows:
        cells = (str(row[key]) for key in ("carrier", "prompt_tokens", "reason"))
        table.add_row(Text(row["name"], "bold cyan"), *cells)
    return table
