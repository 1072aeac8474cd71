"""The packs in use: those that the lock pins, and those that Python packages ship."""

from pathlib import Path

from steerplug.packs.entry_points import packages
from steerplug.packs.lock import Pinned, lock_in_use, packs_folder, read_lock
from steerplug.packs.pack import Pack


def packs() -> dict[str, Pack]:
    """Return the packs in use by name; one that was added goes before a package's of that name.

    Raises:
        PackError: the lock cannot be read.
    """
    return packages() | added(lock_in_use())


def added(lock: Path) -> dict[str, Pack]:
    """Return the packs that a lock pins, by name.

    Raises:
        PackError: the lock cannot be read.
    """
    pinned = read_lock(lock).packs
    return {name: Pack(name, pack, folder_of(name, pack)) for name, pack in pinned.items()}


def folder_of(name: str, pinned: Pinned) -> Path:
    """Return where the files of a pinned pack are, or would be."""
    return packs_folder() / f"{name}-{pinned.sha256[:16]}"


def pack_of(path: Path) -> Pack | None:
    """Return the pack in use that a file of `path` belongs to, if any."""
    folders = path.absolute().parents
    return next((pack for pack in packs().values() if pack.folder in folders), None)
