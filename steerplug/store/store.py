"""Fitted steering on disk, found again by what it was made from.

    <folder>/<model fingerprint, 16>/<preset name>-<key, 16>.gguf

The folder is `$STEERPLUG_CACHE`, or the user's cache folder. A `Key` is the content address: same
preset, model, template, method and versions, same file. Whoever makes a file holds its lock
(`….gguf.lock`), so two processes that need the same thing make it once. A file appears whole or not
at all: it is written beside its place (`….tmp`), read back, flushed to disk and only then renamed.

A file that is torn, foreign, not finite, or not what its name says is never used. `find` refuses it
and names the cure. `find_or_make` was asked for a result and can have one: it logs that refusal as
a warning and makes the file again.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

from filelock import FileLock

from steerplug.errors import SteeringError, StoreError
from steerplug.files.cache_folder import cache_folder, usable
from steerplug.files.home import at_home
from steerplug.files.whole_file import left_overs, whole_file
from steerplug.steering.file import FORMAT, read_steering, write_steering
from steerplug.steering.identity import Identity
from steerplug.steering.terms import PRESET_NAME, place
from steerplug.steering.value import Steering
from steerplug.store.figures import is_quick

log = logging.getLogger(__name__)

Made = tuple[Steering, Identity]


@dataclass(frozen=True)
class Key:
    """The content address of one fitted steering.

    Args:
        preset: the preset's name, for people who look into the folder.
        preset_digest: hash of the preset's content.
        model: the model's fingerprint.
        chat_template: hash of the chat template.
        method: how it is fitted.
        fit_version: of the fitting code; raise it when the same preset would give other numbers.
        quick: whether it is the quick fit, which the full one takes over from.

    Raises:
        StoreError: the preset's name cannot be part of a file name.
    """

    preset: str
    preset_digest: str
    model: str
    chat_template: str
    method: str
    fit_version: int
    quick: bool = False

    def __post_init__(self) -> None:
        if not PRESET_NAME.fullmatch(self.preset):
            raise StoreError(
                f"the preset name {self.preset[:80]!r} cannot name a file; use up to 64 of a-z, "
                "0-9, `.`, `_` and `-`."
            )

    @property
    def digest(self) -> str:
        """Sha256 (hex) over all fields and the version of the file format."""
        *fields, quick = astuple(self)
        marks = ["quick"] if quick else []
        return hashlib.sha256(repr((*fields, *marks, FORMAT)).encode()).hexdigest()

    @property
    def full(self) -> "Key":
        """The key of the full fit."""
        return replace(self, quick=False)

    def is_of(self, identity: Identity | None) -> bool:
        """Return whether a file that says this of itself is the one this key asks for."""
        names = ("preset", "preset_digest", "model", "chat_template", "method")
        return (
            identity is not None
            and all(getattr(self, name) == getattr(identity, name) for name in names)
            and self.quick == is_quick(identity.fidelity)
        )


class Store:
    """The cache of fitted steering, shared by all processes of a user.

    Args:
        folder: where; `$STEERPLUG_CACHE` or the user's cache folder if None. Made when needed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = at_home(folder, StoreError).absolute() if folder else cache_folder()

    def path(self, key: Key) -> Path:
        """Return where the steering of `key` is, or would be."""
        return self.folder / place(key.preset, key.model, key.digest)

    def find(self, key: Key, *, n_embd: int, n_layer: int) -> Made | None:
        """Return the steering of `key`, or None if there is none yet.

        Raises:
            SteeringError: the file is damaged, or is not what `key` asks for.
        """
        path = self.path(key)
        if not os.path.lexists(path):
            return None
        cure = f"delete it, or run `steerplug build {key.preset} --force -m MODEL`"
        try:
            steering, identity = read_steering(path, n_embd=n_embd, n_layer=n_layer)
        except SteeringError as error:
            raise SteeringError(f"{str(error).removesuffix('.')} ({cure}).") from None
        if identity is None or not key.is_of(identity):
            raise SteeringError(f"{path} is not what its name says; {cure}.")
        return steering, identity

    def publish(self, key: Key, steering: Steering, identity: Identity) -> Path:
        """Put `steering` in its place, whole or not at all, over whatever was there.

        Raises:
            StoreError: the folder cannot be written, or `identity` is not that of `key`.
        """
        with self._locked(key):
            return self._publish(key, steering, identity)

    def find_or_make(
        self,
        key: Key,
        make: Callable[[], Made],
        *,
        n_embd: int,
        n_layer: int,
        force: bool = False,
    ) -> Made:
        """Return the steering of `key`, from disk or else from `make`, whose result is published.

        While one process makes it, others wait and then read the result, or with `force` make it
        themselves, one after another. A file that `find` refuses is made again, with a warning in
        the log.

        Raises:
            StoreError: the folder cannot be written. Errors of `make` pass unchanged.
        """
        find = partial(self.find, key, n_embd=n_embd, n_layer=n_layer)
        if not force:
            with suppress(SteeringError):  # looked at again under the lock: it may be replaced
                if built := find():
                    return built
        with self._locked(key):
            try:
                if not force and (built := find()):
                    return built
            except SteeringError as error:
                log.warning("%s Made again.", error)
            steering, identity = make()
            self._publish(key, steering, identity)
            return steering, identity

    @contextmanager
    def _locked(self, key: Key) -> Iterator[None]:
        """Hold the lock of `key`; what a killed process left half-written goes first.

        A quick fit and the full one share a lock, as they share what they have paid for.
        """
        path = self.path(key)
        with usable(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{self.path(key.full)}.lock")
            lock.acquire()
        try:
            with usable(self.folder):
                for left_over in left_overs(path):
                    left_over.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def _publish(self, key: Key, steering: Steering, identity: Identity) -> Path:
        if not key.is_of(identity):
            raise StoreError(
                f"what was made for `{key.preset}` says it is of another preset, model, template "
                "or method; build it again."
            )
        path = self.path(key)
        with usable(self.folder), whole_file(path, over=True) as temporary:
            write_steering(temporary, steering, identity)
            self._verify(temporary, steering, identity)
        return path

    def _verify(self, path: Path, steering: Steering, identity: Identity) -> None:
        try:
            read, own = read_steering(path, n_embd=steering.n_embd, n_layer=steering.n_layer)
        except SteeringError as error:
            raise StoreError(f"what was written did not survive: {error}") from None
        if (read.digest, read.name, own) != (steering.digest, steering.name, identity):
            raise StoreError(f"{path} holds other numbers than were written; check the disk.")
