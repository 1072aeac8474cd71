"""`steerplug presets` and `steerplug show`: what there is, as a table and in words."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from steerplug.commands.completion import models
from steerplug.commands.loading_options import with_loading
from steerplug.commands.options import Json, PresetFile
from steerplug.commands.output import (
    add_names,
    is_wide,
    print_fields,
    print_hanging,
    print_json,
    put,
    screen,
    visible,
)
from steerplug.commands.show_carriers import show_carriers
from steerplug.engine.loading import Loading
from steerplug.files.text import first_sentence, one_line
from steerplug.store.figures import Figures, is_quick

if TYPE_CHECKING:
    from steerplug.library.presets import Listing
    from steerplug.preset import Preset
    from steerplug.preset.checks import Check


_LEGEND = (
    "Gap closed to the prompted model, prompt tokens saved: on the model they were measured on. "
    "Claimed is what a pack's author says, until `steerplug eval` has measured it here."
)
_MORE = "`steerplug show NAME` tells all of one; `steerplug presets --long` has figures."
_INTERVAL = re.compile(r" \(.*\)")
_METHODS = {"auto": "auto: psr where it can run, else chain"}
Schema = Annotated[
    bool,
    typer.Option("--schema", help="Print the first line that gives editors completion."),
]  # fmt: skip


ForModel = Annotated[
    str | None,
    typer.Option(
        "-m", "--model", metavar="MODEL", help="Say what carries each on this model.",
        show_default=False, autocompletion=models,
    ),
]  # fmt: skip


Long = Annotated[bool, typer.Option("--long", help="With method, scope and figures of each.")]


@with_loading
def presets(
    model: ForModel = None, long: Long = False, schema: Schema = False, as_json: Json = False, *,
    loading: Loading,
) -> None:  # fmt: skip
    """List the presets there are."""
    from steerplug.library.presets import list_presets, user_folder

    if schema:
        from steerplug.preset.schema import SCHEMA_FILE

        print(f"# yaml-language-server: $schema={SCHEMA_FILE.as_uri()}")
        return
    listings, console = list_presets(), screen()
    if model is not None:
        show_carriers(model, loading, listings, as_json)
    elif as_json:
        rows = [_row(listing) for listing in listings]
        print_json({"presets": rows, "user_folder": str(user_folder())})
    elif console.is_terminal and not long:
        console.print(_short_table(listings))
        console.print(Text(_MORE, "dim"))
    elif console.is_terminal:
        console.print(_table(listings, with_words=is_wide(console)))
        console.print(Text(f"\n{_LEGEND} Your own presets belong in {user_folder()}.", "dim"))
    else:
        for listing in listings:
            print("\t".join(_cells(listing)))


def _row(listing: "Listing") -> dict[str, Any]:
    row = {
        "name": listing.name, "shipped": listing.shipped, "pack": listing.pack,
        "path": str(listing.path), "error": listing.error,
    }  # fmt: skip
    if listing.preset is None:
        return row
    preset = listing.preset
    described = preset.model_dump(mode="json", include={"version", "description", "scope", "tags"})
    figures = _figures(preset)
    values = _values(figures) if figures else None
    is_claim = figures is not None and figures.claimed_by
    known = {"measured": None if is_claim else values, "claimed": values if is_claim else None}
    return {**row, **described, "method": preset.fit.method, **known}


def _figures(preset: "Preset") -> Figures | None:
    """Return the newest figures there are of a preset, on whatever model."""
    from steerplug.library.compiled import came_with
    from steerplug.store.measurements import newest_figures

    return newest_figures(preset.name, preset.digest, came_with(preset))


def _values(figures: Figures) -> dict[str, Any]:
    wanted = ("gap_closed", "gap_closed_interval", "checks", "prompt_tokens_saved")
    values = {key: figures.fidelity.get(key) for key in wanted}
    return {"model": figures.model, "quick": is_quick(figures.fidelity), **values}


def _cells(listing: "Listing") -> tuple[str, ...]:
    """Return name, method, scope, where from, tags, what a preset does, and its figures."""
    preset = listing.preset
    origin = listing.pack or ("shipped" if listing.shipped else "yours")
    if preset is None:
        return listing.name, "broken", "", origin, "", listing.error or "", "", ""
    figures = _figures(preset) or Figures("", {})
    gap, _, saved = figures.cells()
    tags = ", ".join(preset.tags)
    return (
        listing.name, preset.fit.method, preset.scope, origin, tags,
        one_line(preset.description), gap, saved,
    )  # fmt: skip


def _short_table(listings: "list[Listing]") -> Table:
    """Return names and sentences, what belongs together under one title."""
    groups: dict[str, list[Listing]] = {}
    for listing in listings:
        groups.setdefault(_group(listing), []).append(listing)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    add_names(table, "", [f"  {listing.name}" for listing in listings])
    table.add_column(ratio=1)
    for title, members in sorted(groups.items()):
        table.add_row(Text(title, "dim"))
        for listing in members:
            does = _cells(listing)[5]
            name = Text(f"  {listing.name}", "bold cyan" if listing.preset else "bold red")
            table.add_row(name, first_sentence(does) if listing.preset else visible(does))
    return table


def _group(listing: "Listing") -> str:
    """Return a pack's name, whether a preset is the user's own, or what kind a shipped one is."""
    if listing.preset is None:
        return "broken"
    if listing.pack or not listing.shipped:
        return listing.pack or "yours"
    return listing.preset.tags[0] if listing.preset.tags else "shipped"


def _table(listings: "list[Listing]", *, with_words: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    add_names(table, "preset", [listing.name for listing in listings])
    for title in ("method", "scope", "from"):
        table.add_column(title, no_wrap=True)
    for title in ("gap closed", "saves"):
        table.add_column(title, justify="right")
    if with_words:
        table.add_column("what it does", ratio=1)
    for listing in listings:
        name, method, scope, origin, _, does, gap, saved = _cells(listing)
        words = [first_sentence(does) if listing.preset else does] if with_words else []
        table.add_row(
            Text(name, "bold cyan" if listing.preset else "bold red"), method, scope, origin,
            _INTERVAL.sub("", gap), saved, *words,
        )  # fmt: skip
    return table


def show(preset: PresetFile, as_json: Json = False) -> None:
    """Show one preset in words."""
    from steerplug.library.presets import look_up, preset_in, shipped_folder

    file = look_up(preset)
    path, wanted = file.path, preset_in(file)
    if as_json:
        content = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
        shipped = path.parent == shipped_folder()
        print_json({**content, "digest": wanted.digest, "path": str(path), "shipped": shipped})
        return
    console = screen()
    put(Text.assemble((wanted.name, "bold cyan"), f" {wanted.version}"))
    put(Text(f"{one_line(wanted.description)}\n"))
    title, texts = _source(wanted)
    put(Text(title, "bold"))
    for who, text in texts:
        print_hanging(console, Text(f"  {who}: ", "cyan"), text.strip())
    console.print()
    print_fields(**_facts(wanted), digest=wanted.digest, file=str(path))


def _source(preset: "Preset") -> tuple[str, list[tuple[str, str]]]:
    """Return what a preset is learned from: a title, and (who, text) after (who, text)."""
    if preset.contrast is not None:
        pairs = preset.contrast.pairs
        return "Learned from these pairs", [x for p, n in pairs for x in (("+", p), ("-", n))]
    assert preset.teacher is not None
    system, examples = preset.teacher.system, preset.teacher.examples
    texts = [("system", system)] if system else []
    texts += [x for e in examples for x in (("user", e.user), ("assistant", e.assistant))]
    return "Takes the place of this prompt", texts


def _facts(preset: "Preset") -> dict[str, str]:
    fit, strength = preset.fit, preset.strength
    blocks = "" if fit.layers == "auto" else f", blocks {', '.join(map(str, fit.layers))}"
    coefficient = "" if fit.coefficient == "auto" else f", coefficient {fit.coefficient:g}"
    facts = {
        "method": f"{_METHODS.get(fit.method, fit.method)}{blocks}{coefficient}",
        "questions": _prompts(preset) if preset.teacher else "",
        "scope": preset.scope,
        "strength": f"{strength.default:g} by default, {strength.min:g} to {strength.max:g}",
        "reply": f"held to {preset.format}" if preset.format else "",
        "unsteered": ", ".join(preset.unsteered),
        "steered": ", ".join(["replies", *preset.steered]) if preset.steered else "",
        "checks": "; ".join(map(_check, preset.checks)),
        "tags": ", ".join(preset.tags),
        "license": preset.license,
        "pack": preset.origin.pack if preset.origin else "",
    }
    return {name: value for name, value in facts.items() if value}


def _prompts(preset: "Preset") -> str:
    asked = preset.fit.prompts
    return "general ones, which ship" if isinstance(asked, str) else f"{len(asked)} of its own"


def _check(check: "Check") -> str:
    rest = check.model_dump(exclude={"kind"}).values()
    values = [", ".join(value) if isinstance(value, tuple) else str(value) for value in rest]
    return " ".join([check.kind.replace("_", " "), *values])
