"""`steerplug packs`: the packs in use; list, update, verify and remove them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from steerplug.commands.options import Json
from steerplug.commands.output import print_fields, print_json, put, say, screen, visible
from steerplug.commands.show_pack import Yes, agreed, presets, report, show_changes, show_presets
from steerplug.errors import PackError

if TYPE_CHECKING:
    from steerplug.packs.pack import Pack

app = typer.Typer(help="The packs in use: list, update, verify or remove them.")

Name = Annotated[str, typer.Argument(metavar="PACK", help="A pack's name.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PACK]...", help="Which packs; default: all.", show_default=False),
]


@app.callback(invoke_without_command=True)
def packs(context: typer.Context) -> None:
    """List the packs in use, or do something with one."""
    if context.invoked_subcommand is None:
        list_packs()


@app.command("list")
def list_packs(as_json: Json = False) -> None:
    """List the packs in use and their presets."""
    from steerplug.packs import installed
    from steerplug.packs.lock import lock_in_use

    rows = [_row(pack) for pack in installed.packs().values()]
    if as_json:
        print_json({"lock": str(lock_in_use()), "packs": rows})
        return
    if not rows:
        say("No pack is in use; `steerplug add REF` brings one in.")
    for row in rows:
        _show(row)


def _row(pack: "Pack") -> dict[str, Any]:
    from steerplug.packs.contents import contents_of

    row = {
        "pack": pack.name, "version": pack.pinned.version, "license": pack.pinned.license,
        "ref": pack.pinned.ref, "commit": pack.pinned.commit, "sha256": pack.pinned.sha256,
        "folder": str(pack.folder), "package": pack.package,
    }  # fmt: skip
    try:
        return {**row, "presets": presets(contents_of(pack)), "error": None}
    except PackError as error:
        return {**row, "presets": [], "error": str(error)}


def _show(row: dict[str, Any]) -> None:
    console = screen()
    put(Text.assemble((row["pack"], "bold cyan"), f" {row['version']}"))
    if row["error"]:
        put(Text(f"  {row['error']}", "red"))
    show_presets(row["presets"])
    where = f"the Python package {row['package']}" if row["package"] else row["ref"]
    at = f" at {row['commit'][:12]}" if row["commit"] else ""
    facts = {"license": visible(row["license"]), "from": f"{visible(where)}{at}"}
    print_fields(**{name: value for name, value in facts.items() if value},
                 sha256=row["sha256"])  # fmt: skip
    console.print()


@app.command()
def update(names: Names = None, yes: Yes = False, as_json: Json = False) -> None:
    """Ask where packs came from for what they are now; show what changes, then take it."""
    done = [_updated(pack, yes, as_json) for pack in _chosen(names)]
    if as_json:
        print_json({"packs": done})


def _updated(pack: "Pack", yes: bool, as_json: bool) -> dict[str, Any]:
    from steerplug.packs.install import accept, offered
    from steerplug.packs.lock import lock_in_use
    from steerplug.packs.reference import pinned_in, read_reference

    lock, row = lock_in_use(), {"pack": pack.name, "from": pack.pinned.version}
    reference = pinned_in(read_reference(pack.pinned.ref, lock.parent), lock.parent)
    if reference.is_fixed:
        return _same(row, f"{pack.name} is fixed by its reference; add another.", as_json)
    with offered(reference, lock) as offer:
        name = offer.contents.head.name
        if name != pack.name:
            raise PackError(
                f"{pack.pinned.ref} holds the pack `{name}` now, not `{pack.name}`; remove that, "
                "and add this if you want it."
            )
        if not offer.is_new:
            return _same(row, f"{pack.name} {pack.pinned.version} is as it was.", as_json)
        facts = report(offer)
        if not as_json:
            put(f"{pack.name} {pack.pinned.version} -> {facts['version']}")
            show_changes(facts["changes"])
        done = agreed(f"\nUpdate {pack.name}?", yes) if yes or not as_json else False
        if done:
            accept(offer, lock)
            say(f"{pack.name} is {facts['version']} now.")
    return {**row, "to": facts["version"], "changes": facts["changes"], "updated": done}


def _same(row: dict[str, Any], sentence: str, as_json: bool) -> dict[str, Any]:
    if not as_json:
        say(sentence)
    return {**row, "to": row["from"], "changes": [], "updated": False}


@app.command()
def verify(names: Names = None, as_json: Json = False) -> None:
    """Compare every file of the packs in use with its hash."""
    checked = []
    for pack in _chosen(names, with_packages=True):
        n_files = pack.verify() + 1
        checked.append({"pack": pack.name, "n_files": n_files, "sha256": pack.pinned.sha256})
        if not as_json:
            print(f"{pack.name}\t{n_files} files are what was pinned")
    if as_json:
        print_json({"packs": checked})


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Take a pack out of use; its files go unless another project pins them."""
    from steerplug.packs import install
    from steerplug.packs.lock import lock_in_use

    lock = lock_in_use()
    pinned = install.remove(name, lock)
    if as_json:
        print_json({"pack": name, "version": pinned.version, "ref": pinned.ref})
    else:
        print(f"{name} {pinned.version} is out of use. Back again: steerplug add {pinned.ref}")


def _chosen(names: list[str] | None, *, with_packages: bool = False) -> "list[Pack]":
    from steerplug.packs import installed
    from steerplug.packs.install import not_pinned
    from steerplug.packs.lock import lock_in_use

    lock = lock_in_use()
    in_use = installed.packs() if with_packages else installed.added(lock)
    for name in names or []:
        if name not in in_use:
            raise not_pinned(name, lock)
    return [in_use[name] for name in names] if names else list(in_use.values())
