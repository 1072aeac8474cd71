"""From a reference to a source of files; the only part of `packs` that goes out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steerplug.packs.archive import Zip
from steerplug.packs.download import download
from steerplug.packs.git import Git
from steerplug.packs.hub import Hub
from steerplug.packs.reference import Reference
from steerplug.packs.source import Folder, Source


@contextmanager
def fetched(reference: Reference, work: Path, commit: str = "") -> Iterator[Source]:
    """Yield where the files of a pack can be read.

    Args:
        reference: where the pack is.
        work: an empty folder for what is downloaded.
        commit: ask for this one, whatever the reference's branch or tag is now.

    Raises:
        PackError: it cannot be had.
    """
    label, rev = reference.label, commit or reference.rev
    if reference.kind == "git":
        yield Git(reference.place, rev, work, label, reference.folder)
    elif reference.kind == "hub":
        yield Hub(reference.place, rev, work, label)
    elif reference.kind == "path" and Path(reference.place).is_dir():
        yield Folder(Path(reference.place), label)
    else:
        path = Path(reference.place)
        if reference.kind == "url":
            path = work / "pack.zip"
            download(reference.place, reference.sha256, path)
        source = Zip(path, label)
        try:
            yield source
        finally:
            source.close()
