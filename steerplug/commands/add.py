"""`steerplug add`: bring in a pack of presets, after showing what it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerplug.commands.options import Json
from steerplug.commands.output import print_json, say
from steerplug.commands.show_pack import Yes, agreed, report, show
from steerplug.errors import PackError

if TYPE_CHECKING:
    from steerplug.packs.lock import Pinned
    from steerplug.packs.pack import Pack
    from steerplug.packs.reference import Reference

    _Wanted = tuple[Reference | None, Pack | None, Pinned | None]

REF = Annotated[
    str | None,
    typer.Argument(
        metavar="REF", show_default=False,
        help="./path, pack.zip, gh:owner/repo[/path]@rev, git+URL@rev, hf:org/repo@rev or "
        "https://...#sha256=...; without one, what the lock pins.",
    ),
]  # fmt: skip
Here = Annotated[
    bool,
    typer.Option("--here", help="Pin it in ./steerplug.lock, which this project can commit."),
]


def add(ref: REF = None, here: Here = False, yes: Yes = False, as_json: Json = False) -> None:
    """Bring in a pack of presets, or all that the lock pins."""
    from steerplug.packs.lock import FILE, lock_in_use, working_folder

    lock = working_folder() / FILE if here else lock_in_use()
    bring = _one(ref, lock) if ref is not None else _pinned(lock)
    done = [_brought(*pack, lock, yes, as_json) for pack in bring]
    if as_json:
        print_json({"lock": str(lock), "packs": done})


def _one(ref: str, lock: Path) -> "list[_Wanted]":
    """Return what a reference asks for, and the pack in use that came from there."""
    from steerplug.packs.installed import added
    from steerplug.packs.lock import working_folder
    from steerplug.packs.reference import pinned_in, read_reference

    wanted = pinned_in(read_reference(ref, working_folder()), lock.parent)
    same = (pack for pack in added(lock).values() if pack.pinned.ref == wanted.text)
    return [(wanted, next(same, None), None)]


def _pinned(lock: Path) -> "list[_Wanted]":
    """Return what a lock asks for: those very packs."""
    from steerplug.packs.installed import added
    from steerplug.packs.reference import pinned_in, read_reference

    packs = added(lock).values()
    if not packs:
        raise PackError(f"{lock} pins no pack; say where one is, as in gh:owner/repo@rev.")
    return [
        (None if _is_whole(pack) else pinned_in(
            read_reference(pack.pinned.ref, lock.parent), lock.parent
        ), pack, pack.pinned)
        for pack in packs
    ]  # fmt: skip


def _brought(
    wanted: "Reference | None", here: "Pack | None", pinned: "Pinned | None",
    lock: Path, yes: bool, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """Add one pack unless it is here, and return what came of it."""
    from steerplug.packs.install import accept, offered

    whole = here is not None and _is_whole(here)
    if here and whole and (wanted is None or wanted.kind != "path"):
        return _is_here(here, as_json)
    assert wanted is not None
    with offered(wanted, lock, pinned) as offer:
        if here and whole and not offer.is_new:
            return _is_here(here, as_json)
        facts = report(offer)
        if not as_json:
            show(facts)
        if as_json and not yes:
            return {**facts, "added": False}
        added = agreed(f"\nAdd {facts['pack']}?", yes)
        if added:
            accept(offer, lock)
            first = facts["presets"][0]["name"]
            say(f'\nAdded, and pinned in {lock}. Try: steerplug run -s {first} "..."')
    return {**facts, "added": added}


def _is_here(pack: "Pack", as_json: bool) -> dict[str, Any]:
    if not as_json:
        say(f"{pack.name} {pack.pinned.version} is here, and is what was pinned.")
    return {"pack": pack.name, "version": pack.pinned.version, "added": False}


def _is_whole(pack: "Pack") -> bool:
    """Say whether a pack is here, every file as it was pinned."""
    try:
        pack.verify()
    except PackError:
        return False
    return True
