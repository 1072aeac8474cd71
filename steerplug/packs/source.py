"""Where the bytes of a pack come from: a folder here, and a zip or a repository elsewhere.

Contract: a source hands out the files it is asked for by name, each within its limit, and nothing
it holds is believed, followed or run. A link, or anything but a plain file, is refused by name.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from steerplug.errors import PackError, unreadable
from steerplug.files.yaml_file import printable
from steerplug.packs.manifest import LOCK, MAX_TOTAL


class Source(Protocol):
    """Something that holds the files of a pack.

    Attributes:
        label: what messages call it.
        commit: the commit it stands for; empty where there is none.
    """

    label: str
    commit: str

    def top(self) -> list[str]:
        """Return the names of the files at its top."""

    def read(self, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of the files named in `limits`, in any order, within its bytes.

        Raises:
            PackError: a file is not there, is no plain file, or is larger.
        """


class Folder:
    """A folder, of which a stranger may have made every entry."""

    def __init__(self, root: Path, label: str, commit: str = "") -> None:
        self.root, self.label, self.commit = root, label, commit

    def top(self) -> list[str]:
        """Return the names of the files at its top."""
        try:
            return sorted(entry.name for entry in self.root.iterdir() if not entry.is_dir())
        except OSError as error:
            raise PackError(f"the folder {self.label} {unreadable(error)}") from None

    def read(self, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of files; see `Source.read`."""
        for name, limit in limits.items():
            yield name, self._content(name, limit)

    def _content(self, name: str, limit: int) -> bytes:
        try:
            with self._open(name) as file:
                content = file.read(limit + 1)
        except FileNotFoundError:
            raise missing(self.label, name) from None
        except OSError as error:
            raise PackError(f"{self.label}: `{name}` {unreadable(error)}") from None
        if len(content) > limit:
            raise too_large(self.label, name, limit)
        return content

    def _open(self, name: str) -> BinaryIO:
        """Open a plain file below the root, following no link on the way to it."""
        path = self.root
        for part in name.split("/"):
            path = path / part
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise not_plain(self.label, name)
        if not stat.S_ISREG(mode):
            raise not_plain(self.label, name)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        return os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb")


def missing(label: str, name: str) -> PackError:
    """Return the error for a file that is not there."""
    if name == LOCK:
        return PackError(
            f"{label} is not a pack, as it has no pack.lock; its author makes one with "
            "`steerplug pack`."
        )
    return PackError(f"{label}: `{printable(name)}` is missing; fetch the pack again.")


def not_plain(label: str, name: str) -> PackError:
    """Return the error for a link, a device or a folder where a file should be."""
    return PackError(
        f"{label}: `{printable(name)}` is a link or no plain file; do not use this pack."
    )


def too_large(label: str, name: str, limit: int) -> PackError:
    """Return the error for a file beyond its limit."""
    size = f"{limit >> 20} MB" if limit >= 2**20 else f"{limit >> 10} kB"
    return PackError(
        f"{label}: `{printable(name)}` is larger than {size}, the limit there; do not use this "
        "pack."
    )


def check_total(label: str, size: int) -> None:
    """Refuse a pack that is larger than packs may be."""
    if size > MAX_TOTAL:
        raise PackError(
            f"{label} is larger than {MAX_TOTAL >> 20} MB, the limit of a pack; do not use it."
        )
