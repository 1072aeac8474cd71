"""One pack in use: where its files are, and that a file is what was pinned.

Contract: the hashes along the whole chain, lock -> `pack.lock` -> file, are compared before anybody
parses the file.
"""

from dataclasses import dataclass
from pathlib import Path

from steerplug.errors import PackError
from steerplug.packs.lock import Pinned
from steerplug.packs.manifest import LOCK, Manifest, digest, limit, read_manifest
from steerplug.packs.source import Folder
from steerplug.preset import Origin


@dataclass(frozen=True)
class Pack:
    """A pack in use.

    Args:
        name: what its presets are qualified with.
        pinned: what is known of it without opening it.
        folder: where its files are, or should be.
        package: the Python package that brought it; empty if it was added.
    """

    name: str
    pinned: Pinned
    folder: Path
    package: str = ""

    @property
    def origin(self) -> Origin:
        """What its presets know of it."""
        return Origin(f"{self.name}@{self.pinned.version}", self.folder)

    def manifest(self) -> Manifest:
        """Return the pack's files and their hashes.

        Raises:
            PackError: the pack is not here, or its `pack.lock` is not the pinned one.
        """
        if not self.folder.is_dir():
            raise PackError(
                f"the pack `{self.name}` is pinned and not here; run `steerplug add` to bring in "
                "what the lock pins."
            )
        lock = self._read(LOCK)
        if digest(lock) != self.pinned.sha256:
            raise self._changed(LOCK)
        return read_manifest(lock, f"{self.name}: {LOCK}")

    def content(self, name: str) -> bytes:
        """Return one file of the pack, which is what was pinned.

        Raises:
            PackError: it is missing, or was changed since.
        """
        return self._verified(name, self.manifest())

    def verify(self) -> int:
        """Compare every file with its hash, and return how many there are.

        Raises:
            PackError: a file is missing, or was changed since.
        """
        manifest = self.manifest()
        for name in manifest.files:
            self._verified(name, manifest)
        return len(manifest.files)

    def _verified(self, name: str, manifest: Manifest) -> bytes:
        if name not in manifest.files:
            raise PackError(
                f"the pack `{self.name}` has no `{name}` in its pack.lock; remove that file."
            )
        content = self._read(name)
        if digest(content) != manifest.files[name]:
            raise self._changed(name)
        return content

    def _read(self, name: str) -> bytes:
        source = Folder(self.folder, f"the pack `{self.name}`")
        ((_, content),) = source.read({name: limit(name) or 0})
        return content

    def _changed(self, name: str) -> PackError:
        cure = (
            f"install {self.package} again" if self.package
            else f"run `steerplug packs remove {self.name}`, and add it again"
        )  # fmt: skip
        return PackError(
            f"the pack `{self.name}`: `{name}` was changed since it was pinned; {cure}."
        )
