"""A zip as a source of files: members are read one by one, bounded, and never unpacked by name.

A zip may hold the pack at its top or, as archives of repositories do, in one folder.
"""

import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from steerplug.errors import PackError
from steerplug.files.yaml_file import printable
from steerplug.packs.manifest import LOCK
from steerplug.packs.source import missing, not_plain, too_large

MAX_MEMBERS = 5000
_MAX_DIRECTORY = MAX_MEMBERS * 512
_END, _LOCATOR, _TAIL = b"PK\x05\x06", b"PK\x06\x07", 22 + 65_535


class Zip:
    """A zip file, of which a stranger may have made every byte.

    Raises:
        PackError: it is damaged, holds too many members, or one that is a link, encrypted, there
            twice, or named like a path out of the archive.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.label, self.commit = label, ""
        try:
            with path.open("rb") as file:
                _check_directory(file, label)
            self._zip = zipfile.ZipFile(path)
        except PackError:
            raise
        except Exception as error:  # zipfile's own, and struct.error, UnicodeError, ...
            raise _damaged(label, error) from None
        try:
            self._members = self._checked()
        except PackError:
            self.close()
            raise

    def top(self) -> list[str]:
        """Return the names of the files at its top."""
        return sorted(name for name in self._members if "/" not in name)

    def read(self, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of files; see `Source.read`."""
        for name, limit in limits.items():
            if name not in self._members:
                raise missing(self.label, name)
            yield name, self._content(name, limit)

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def _content(self, name: str, limit: int) -> bytes:
        member = self._members[name]
        if member.file_size > limit:
            raise too_large(self.label, name, limit)
        try:
            with self._zip.open(member) as file:
                content = file.read(limit + 1)
        except Exception as error:  # zipfile's own, zlib.error, EOFError, NotImplementedError, ...
            raise _damaged(self.label, error, name) from None
        if len(content) > limit:
            raise too_large(self.label, name, limit)
        return content

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            name = member.orig_filename
            parts = PurePosixPath(name).parts
            if "\\" in name or ":" in name or "\0" in name or ".." in parts or name[:1] == "/":
                raise PackError(
                    f"{self.label} holds `{printable(name)}`, a path out of the archive; do not "
                    "use this pack."
                )
            if stat.S_ISLNK(member.external_attr >> 16):
                raise not_plain(self.label, name)
            if member.flag_bits & 1:
                raise PackError(f"{self.label}: `{printable(name)}` is encrypted; unpack it first.")
            if name in members:
                raise PackError(
                    f"{self.label} holds `{printable(name)}` twice; do not use this pack."
                )
            if not member.is_dir():
                members[name] = member
        return _below_one_folder(members)


def _below_one_folder(members: dict[str, zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    tops = {name.partition("/")[0] for name in members}
    if LOCK in members or len(tops) != 1:
        return members
    return {name.partition("/")[2]: member for name, member in members.items()}


def _check_directory(file: BinaryIO, label: str) -> None:
    """Refuse a directory of members that would itself fill the memory; zipfile reads all of it."""
    size = file.seek(0, 2)
    file.seek(max(size - _TAIL - 20, 0))
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or at + 22 > len(tail):
        raise PackError(f"{label} is not a zip, or is cut short; fetch it again.")
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    if directory > _MAX_DIRECTORY or tail[max(at - 20, 0) : at].startswith(_LOCATOR):
        raise PackError(f"{label} holds over {MAX_MEMBERS} members; do not use this pack.")


def _damaged(label: str, error: Exception, name: str = "") -> PackError:
    where = f": `{printable(name)}`" if name else ""
    return PackError(f"{label}{where} is damaged ({type(error).__name__}); fetch it again.")
