"""The lock: which packs are in use, each pinned to its digest.

`steerplug.lock` is YAML that a project can commit; `steerplug add` without a reference brings in
what it pins. The lock in use is the nearest one of the working folder and those above it, else the
user's own. It names the presets of each pack, so a name is looked up without opening any pack.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_data_path
from pydantic import Field

from steerplug.errors import PackError, unreadable
from steerplug.files.home import at_home
from steerplug.files.yaml_file import MAX_BYTES
from steerplug.packs.manifest import (
    PackName,
    Sha256,
    read_model,
    write_file,
    write_model,
)
from steerplug.preset import Name, Version
from steerplug.preset.checks import TEXT, Frozen

FILE = "steerplug.lock"
_HEAD = "Packs in use, written by `steerplug add`; see `steerplug packs --help`."


class Pinned(Frozen):
    """One pack of a lock.

    Args:
        ref: where it was asked for.
        commit: which commit that was; empty where there are none.
        sha256: its digest, which is that of its `pack.lock`.
        version: what it calls itself.
        license: of the pack.
        presets: the names of its presets.
    """

    ref: Annotated[str, Field(max_length=1000), TEXT]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]*$", max_length=64)] = ""
    sha256: Sha256
    version: Version
    license: Annotated[str, Field(max_length=100), TEXT] = ""
    presets: tuple[Name, ...]


class Lock(Frozen):
    """All packs in use, by name."""

    schema_: Literal["steerplug/lock-v1"] = Field("steerplug/lock-v1", alias="schema")
    packs: Annotated[dict[PackName, Pinned], Field(max_length=200)]


def packs_folder() -> Path:
    """Return the folder where added packs lie; it need not exist.

    Raises:
        PackError: it is in the home of nobody who is known here.
    """
    chosen = os.environ.get("STEERPLUG_PACKS")
    folder = Path(chosen) if chosen else user_data_path("steerplug", appauthor=False) / "packs"
    return at_home(folder, PackError, "set STEERPLUG_PACKS to a folder").absolute()


def working_folder() -> Path:
    """Return the folder that relative paths and a project's lock are looked for in.

    Raises:
        PackError: somebody removed it.
    """
    try:
        return Path.cwd()
    except OSError:
        raise PackError("the working folder is gone; change to one that exists.") from None


def lock_in_use() -> Path:
    """Return the path of the lock in use; it need not exist."""
    try:
        here = working_folder()
    except PackError:
        return packs_folder() / FILE
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return folder / FILE
    return packs_folder() / FILE


def read_lock(path: Path) -> Lock:
    """Return what a lock says; nothing is pinned where there is none.

    Raises:
        PackError: it cannot be read, or is not a lock.
    """
    if not os.path.lexists(path):
        return Lock(packs={})
    try:
        with path.open("rb") as file:
            return _parsed(file.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        raise PackError(f"{path} {unreadable(error)}") from None


@lru_cache(maxsize=8)
def _parsed(content: bytes, source: str) -> Lock:
    return read_model(Lock, content, source, "a steerplug.lock")


def write_lock(path: Path, lock: Lock) -> None:
    """Put a lock in its place, whole or not at all.

    Raises:
        PackError: the folder cannot be written.
    """
    ordered = Lock(packs=dict(sorted(lock.packs.items())))
    write_file(path, write_model(_HEAD, ordered))
