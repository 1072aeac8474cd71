"""Bringing packs in and taking them out: staged, shown, renamed into place, pinned.

Contract: the folder of packs and the lock change together or not at all. What is staged lies in
`<packs>/.staged-*` and is gone when its `with` ends, however it ends; what a killed process left
there goes when the next one comes. One process at a time changes the folder.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from steerplug.errors import PackError, nearest
from steerplug.packs.contents import Contents, stage
from steerplug.packs.entry_points import packages
from steerplug.packs.fetch import fetched
from steerplug.packs.installed import added, folder_of
from steerplug.packs.lock import Lock, Pinned, packs_folder, read_lock, write_lock
from steerplug.packs.pack import Pack
from steerplug.packs.reference import Reference

_STAGED = ".staged-"
_LOCKS = "locks.txt"
_SECONDS = 20


@dataclass(frozen=True)
class Offer:
    """A pack that was fetched and verified, and not added yet.

    Args:
        contents: what it holds.
        pinned: what the lock will say of it.
        replaces: the pack of that name in use, if any.
        folder: where it is staged.
    """

    contents: Contents
    pinned: Pinned
    replaces: Pack | None
    folder: Path

    @property
    def is_new(self) -> bool:
        """Whether accepting it changes anything but where it came from."""
        return self.replaces is None or self.replaces.pinned.sha256 != self.pinned.sha256


@contextmanager
def offered(
    reference: Reference, lock: Path, pinned: Pinned | None = None
) -> Iterator[Offer]:
    """Fetch and verify a pack; it is forgotten afterwards unless it was accepted.

    Args:
        reference: where it is.
        lock: where it would be pinned.
        pinned: what it must be; anything else is refused.

    Raises:
        PackError: it cannot be had, is not a good pack, or is not what was pinned.
    """
    with _alone() as packs, _temporary(packs) as folder, _temporary(packs) as work:
        with fetched(reference, work, pinned.commit if pinned else "") as source:
            contents = stage(source, folder)
            commit = source.commit
        if pinned and contents.digest != pinned.sha256:
            raise PackError(
                f"{source.label} is not the pack that {lock.name} pins: its digest is "
                f"{contents.digest[:16]}..., not {pinned.sha256[:16]}...; ask its author."
            )
        now = Pinned(
            ref=reference.text, commit=commit, sha256=contents.digest,
            version=contents.head.version, license=contents.head.license,
            presets=contents.manifest.presets,
        )  # fmt: skip
        yield Offer(contents, now, added(lock).get(contents.head.name), folder)


def accept(offer: Offer, lock: Path) -> Path:
    """Put an offered pack in its place and pin it; return its folder.

    Raises:
        PackError: a folder cannot be written; then nothing has changed.
    """
    name = offer.contents.head.name
    place = folder_of(name, offer.pinned)
    aside = offer.folder.with_name(f"{offer.folder.name}-old")
    try:
        if os.path.lexists(place):
            os.replace(place, aside)
        os.replace(offer.folder, place)
    except OSError as error:
        if os.path.lexists(aside):
            os.replace(aside, place)
        raise PackError(
            f"the folder {packs_folder()} cannot be written ({error.strerror}); set "
            "STEERPLUG_PACKS to one that you may write to."
        ) from None
    had_one = os.path.lexists(aside)
    try:
        write_lock(lock, Lock(packs={**read_lock(lock).packs, name: offer.pinned}))
    except PackError:
        if not had_one:
            _forget(place)
        raise
    finally:
        _forget(aside)
    _prune(lock)
    return place


def remove(name: str, lock: Path) -> Pinned:
    """Take a pack out of the lock, and its files away unless another lock pins them.

    Raises:
        PackError: the lock pins no such pack, or cannot be written.
    """
    with _alone():
        pinned = read_lock(lock).packs
        if name not in pinned:
            raise not_pinned(name, lock)
        rest = {other: pack for other, pack in pinned.items() if other != name}
        write_lock(lock, Lock(packs=rest))
        _prune(lock)
        return pinned[name]


def not_pinned(name: str, lock: Path) -> PackError:
    """Return the error for a pack that a lock does not pin."""
    if name in packages():
        return PackError(
            f"the pack `{name}` comes with the Python package {packages()[name].package}; update "
            "or uninstall that."
        )
    pinned = read_lock(lock).packs
    guess = nearest(name, pinned) or "; see `steerplug packs list`."
    return PackError(f"{lock} pins no pack `{name[:64]}`{guess}")


def _prune(lock: Path) -> None:
    """Take away the folders of packs that no lock pins any more, of the locks that still exist."""
    packs = packs_folder()
    known = {lock.absolute(), *_known_locks(packs)}
    try:
        locks = {path: read_lock(path) for path in known if path.is_file()}
        text = "".join(f"{path}\n" for path in sorted(locks))
        (packs / _LOCKS).write_text(text, encoding="utf-8")
    except (PackError, OSError):
        return  # a lock that cannot be read may pin any of them
    used = {folder_of(n, pack) for kept in locks.values() for n, pack in kept.packs.items()}
    for folder in packs.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and folder not in used:
            _forget(folder)


def _known_locks(packs: Path) -> list[Path]:
    try:
        return [Path(line) for line in (packs / _LOCKS).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return []


@contextmanager
def _alone() -> Iterator[Path]:
    """Hold the folder of packs; what a killed process left in it goes first."""
    packs = packs_folder()
    try:
        packs.mkdir(parents=True, exist_ok=True)
        held = FileLock(packs / ".lock", timeout=_SECONDS)
        held.acquire()
    except Timeout:
        raise PackError(
            f"another steerplug is changing {packs}; wait until it is done, and try again."
        ) from None
    except OSError as error:
        raise PackError(
            f"the folder {packs} cannot be used ({error.strerror}); set STEERPLUG_PACKS to one "
            "that you may write to."
        ) from None
    try:
        for left_over in packs.glob(f"{_STAGED}*"):
            _forget(left_over)
        yield packs
    finally:
        held.release()


@contextmanager
def _temporary(packs: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=_STAGED, dir=packs))
    try:
        yield folder
    finally:
        _forget(folder)


def _forget(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
