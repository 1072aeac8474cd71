"""What a pack holds, shown before anybody says yes to it."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from steerplug.commands.output import print_fields, print_hanging, put, say, screen, visible
from steerplug.errors import PackError
from steerplug.files.text import first_sentence, one_line

if TYPE_CHECKING:
    from steerplug.packs.contents import Contents, Numbers
    from steerplug.packs.install import Offer

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


def report(offer: "Offer") -> dict[str, Any]:
    """Return what a pack holds and what it would replace, as JSON values."""
    from steerplug.library.presets import others_named

    contents, pinned = offer.contents, offer.pinned
    name = contents.head.name
    return {
        "pack": name,
        "version": contents.head.version,
        "description": contents.head.description,
        "license": contents.head.license,
        "ref": pinned.ref,
        "commit": pinned.commit,
        "sha256": pinned.sha256,
        "size_bytes": contents.size,
        "n_files": len(contents.manifest.files) + 1,
        "presets": presets(contents),
        "replaces": offer.replaces.pinned.version if offer.replaces else None,
        "changes": changes_of(offer),
        "also_named": {
            preset: others for preset in contents.presets if (others := others_named(preset, name))
        },
    }


def presets(contents: "Contents") -> list[dict[str, Any]]:
    """Return the presets of a pack, each with what its author claims and what was measured here."""
    return [
        {
            "name": f"{contents.head.name}/{name}",
            "version": preset.version,
            "description": one_line(preset.description),
            "license": preset.license,
            "compiled": [_figures(file) for file in contents.numbers if file.preset == name],
        }
        for name, preset in sorted(contents.presets.items())
    ]


def _figures(numbers: "Numbers") -> dict[str, Any]:
    from steerplug.store.measurements import recall

    reports = recall(numbers.path)
    measured = {model: fidelity.get("gap_closed") for model, fidelity in reports.items()}
    return {
        "model": numbers.model,
        "digest": numbers.digest,
        "claimed_gap_closed": numbers.claim,
        "measured_gap_closed": measured.pop(numbers.model, None),
        "measured_on_others": measured,
    }


def changes_of(offer: "Offer") -> list[str]:
    """Return in words what is not as in the pack in use of that name."""
    from steerplug.packs.changes import changes
    from steerplug.packs.contents import contents_of

    if offer.replaces is None:
        return []
    try:
        return changes(contents_of(offer.replaces), offer.contents)
    except PackError as error:
        return [f"what is in use cannot be compared ({error})"]


def show(pack: dict[str, Any]) -> None:
    """Print what `report` found."""
    console = screen()
    put(Text.assemble((pack["pack"], "bold cyan"), f" {pack['version']}"))
    if pack["description"]:
        put(visible(one_line(pack["description"])))
    show_presets(pack["presets"])
    console.print()
    also = (f"{name} is also {', '.join(o)}" for name, o in pack["also_named"].items())
    facts = {
        "license": visible(pack["license"]) or "none is stated",
        "size": f"{pack['size_bytes'] / 1000:.0f} kB in {pack['n_files']} files",
        "from": visible(pack["ref"]),
        "commit": pack["commit"],
        "sha256": pack["sha256"],
        "replaces": f"{pack['pack']} {pack['replaces']}, here already" if pack["replaces"] else "",
        "names": f"{'; '.join(also)}: say which in a mix" if pack["also_named"] else "",
    }
    print_fields(**{name: value for name, value in facts.items() if value})
    show_changes(pack["changes"])


def show_presets(presets: list[dict[str, Any]]) -> None:
    """Print a line for each preset: what it does, and how well its author says it does."""
    console = screen()
    for preset in presets:
        figures = "; ".join(_figure(figure) for figure in preset["compiled"])
        text = visible(first_sentence(preset["description"])) + (f" [{figures}]" if figures else "")
        print_hanging(console, Text(f"  {preset['name']}  ", "cyan"), text)


def _figure(figure: dict[str, Any]) -> str:
    model, measured = figure["model"].rpartition("-")[0], figure["measured_gap_closed"]
    claimed = figure["claimed_gap_closed"]
    if measured is not None:
        closes = f"{model}: closes {measured:.0%} of the gap, measured here"
    else:
        closes = f"{model}: its author claims {claimed:.0%}" if claimed is not None else model
    near = (
        f"another file of the model: closes {gap:.0%}, measured here"
        for gap in figure["measured_on_others"].values() if gap is not None
    )  # fmt: skip
    return "; ".join([closes, *near])


def show_changes(lines: list[str]) -> None:
    """Print what changes, a line each."""
    if lines:
        console = screen()
        console.print("\nWhat changes:")
        for line in lines:
            put(Text(f"  {visible(line)}"))


def agreed(question: str, yes: bool) -> bool:
    """Ask, and say whether the answer was yes.

    Raises:
        PackError: nobody can be asked.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise PackError("nothing was changed, as nobody is here to be asked; add --yes to agree.")
    if typer.confirm(question, err=True):
        return True
    say("Nothing was changed.")
    return False
