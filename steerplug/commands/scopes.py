"""`steerplug build --both-scopes`: what it buys to steer all tokens, and what it costs."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from steerplug.commands.output import print_json, put, screen
from steerplug.errors import PresetError
from steerplug.store.figures import NOT_MEASURED, checks_kept, gap_closed, number

if TYPE_CHECKING:
    from steerplug.preset import Preset

SCOPES = {
    "response": "shared by all presets",
    "all": "of each preset alone",
}


def build_both(
    preset: "Preset", build: Callable[["Preset"], dict[str, Any]], model: str, as_json: bool
) -> None:
    """Build a preset in both scopes with `build`, and show what came of each.

    Both are kept; which one is used is for the preset to say.

    Raises:
        PresetError: the preset has no prompt that either could stand in for.
    """
    if preset.teacher is None:
        raise PresetError(
            f"`{preset.name}` has no teacher, and scopes are compared by how well they stand in "
            "for its prompt; build it without --both-scopes."
        )
    reports = {scope: build(preset.model_copy(update={"scope": scope})) for scope in SCOPES}
    if as_json:
        print_json({"preset": preset.name, "model": model, "uses": preset.scope, "scopes": reports})
        return
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("scope", "gap closed (95 %)", "checks", "drift, nats", "prompt cells"):
        table.add_column(title)
    for scope, report in reports.items():
        fidelity = report["fidelity"]
        drift = number(fidelity.get("neutral_kl"))
        table.add_row(
            scope, gap_closed(fidelity), checks_kept(fidelity),
            NOT_MEASURED if drift is None else f"{drift:.3f}", SCOPES[scope],
        )  # fmt: skip
    screen().print(table)
    put(f"`{preset.name}` uses scope `{preset.scope}`; write `scope:` in its file to change that.")
