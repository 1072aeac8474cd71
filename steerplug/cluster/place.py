"""One place of presets for all nodes: a folder that all see, or an object store.

    <place>/NAME.yaml
    <place>/compiled/<model, 16>/NAME-<key, 16>.gguf

which is how the shipped ones lie, and packs. Each node holds a copy, so that a reply never waits
for the network. What comes in is looked at before it takes its place: a file of steering says its
own digest (`steerplug.steering.file`), so one that is torn or changed is refused, and what was
there stays. What is compiled here goes out, whole or not at all. What came from there goes when it
goes there, however long this node was down meanwhile (`seen`).
"""

import hashlib
import logging
import posixpath
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steerplug.cluster.sync_record import Stamps, SyncRecord
from steerplug.errors import SteerplugError, StoreError
from steerplug.files.cache_folder import cache_folder, usable
from steerplug.files.whole_file import whole_file
from steerplug.steering.file import read_own
from steerplug.steering.terms import COMPILED, PLACE

log = logging.getLogger(__name__)

_STAMPS = (
    "size", "mtime", "ino", "created", "LastModified", "last_modified", "updated", "ETag", "etag",
)  # fmt: skip
"""What file systems call that by which one file is told from the next in its place."""

_PRESETS = (".yaml", ".yml")


class Place:
    """A place of presets, and this node's copy of it.

    Args:
        url: a folder, or what fsspec opens, such as `s3://bucket/presets`.
        folder: of the copies; default: in the user's cache.

    Raises:
        StoreError: it cannot be opened, or is not there, or there can be no copy.
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self.url, (self._system, self._root) = url, _opened(url)
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        self.folder = (folder or cache_folder() / "places") / name
        self._seen = SyncRecord(self.folder)
        if not self._called(self._system.isdir, self._root):
            raise StoreError(f"there is no folder {url}; make it, or correct --presets-at.")
        with usable(self.folder):
            self.compiled.mkdir(parents=True, exist_ok=True)

    @property
    def compiled(self) -> Path:
        """The copy of what is compiled."""
        return self.folder / COMPILED

    def pull(self) -> None:
        """Bring in what is new there, and drop what came from there and is gone.

        Raises:
            StoreError: the place cannot be read, or the copy not be written.
        """
        with self._seen.alone():
            seen, there = self._known(), self._there()
            new = [
                name for name, stamp in there.items()
                if seen.get(name) != stamp or not (self.folder / name).exists()
            ]  # fmt: skip
            self._seen.keep({**seen, **dict.fromkeys(new)})  # none of it was made here
            for name in new:
                self._bring(name)
            for name in seen.keys() - there.keys():
                (self.folder / name).unlink(missing_ok=True)
            self._seen.keep(there)

    def push(self) -> None:
        """Send what was compiled here since.

        Raises:
            StoreError: the place cannot be written, or the copy not be read.
        """
        with self._seen.alone():
            seen = self._known()
            for name in filter(_is_steering, self._here()):
                if name not in seen:
                    self._send(name)
                    seen[name] = None
                    self._seen.keep(seen)

    def _there(self) -> Stamps:
        """Return what is at the place."""
        found = self._called(self._system.find, self._root, detail=True)
        names = {posixpath.relpath(path, self._root): about for path, about in found.items()}
        return {name: _stamp(about) for name, about in names.items() if _belongs(name)}

    def _here(self) -> list[str]:
        """Return the names of what is in the copy."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return list(filter(_belongs, (path.relative_to(self.folder).as_posix() for path in paths)))

    def _known(self) -> Stamps:
        """Return what is known to have come from the place; if nothing is, all that is here."""
        kept = self._seen.read()
        if kept is None:
            return dict.fromkeys(self._here())
        return {name: stamp for name, stamp in kept.items() if _belongs(name)}

    def _bring(self, name: str) -> None:
        content = self._called(self._system.cat_file, f"{self._root}/{name}")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with whole_file(path, over=True) as temporary:
                temporary.write_bytes(content)
                if _is_steering(name):
                    read_own(temporary)
        except SteerplugError as error:
            log.warning("%s/%s is not taken: %s", self.url, name, error)

    def _send(self, name: str) -> None:
        target, content = f"{self._root}/{name}", (self.folder / name).read_bytes()
        temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        self._called(self._system.makedirs, posixpath.dirname(target), exist_ok=True)
        self._called(self._system.pipe_file, temporary, content)
        self._called(self._system.mv, temporary, target)

    def _called(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Return what the file system says, whose errors are of every kind."""
        try:
            self._system.invalidate_cache()
            return function(*arguments, **named)
        except Exception as error:
            raise StoreError(
                f"the place of presets {self.url} cannot be used ({_said(error)}); check the "
                "address, and that this node may read and write there."
            ) from error


def _opened(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs

        system, root = url_to_fs(url)
    except ImportError as error:
        raise StoreError(f"{url} cannot be opened: {_said(error)}.") from None
    except ValueError as error:
        raise StoreError(f"{url} is no place of presets ({_said(error)}).") from None
    return system, str(root).rstrip("/")


def _belongs(name: str) -> bool:
    """Say whether a file, by its path in the place, is a preset or compiled of one."""
    return _is_steering(name) or ("/" not in name and name.endswith(_PRESETS))


def _is_steering(name: str) -> bool:
    folder, _, place = name.partition("/")
    return folder == COMPILED and PLACE.fullmatch(place) is not None


def _stamp(about: Any) -> list[str]:
    """Return what changes when another file takes this one's place, as the system tells it."""
    return [str(about.get(key)) for key in _STAMPS]


def _said(error: BaseException) -> str:
    lines: Iterator[str] = iter(str(error).splitlines())
    return next(lines, type(error).__name__).rstrip(".")
