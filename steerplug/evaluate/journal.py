"""The journal of a long measure, what it has done so far: asked for again, it goes on from there.

One file of lines `[key, value]` in the cache, to which every value is added as it comes; a line
that was cut off is not read, and what it held is measured again. A key names all that decides on
its value, so another preset, strength or text has other keys; another model or version has another
file.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from steerplug.files.cache_folder import cache_folder, usable
from steerplug.fit.reply_cache import CachedReply
from steerplug.version import __version__

Value = TypeVar("Value")


class Journal(dict[str, Value], Generic[Value]):
    """Values by key, each of which is written as it is put in.

    Args:
        path: the file; it and its folder are made when needed.
        read: makes a value of what JSON holds.

    Raises:
        StoreError: the file cannot be read or written.
    """

    def __init__(self, path: Path, read: Callable[[Any], Value]) -> None:
        self._path, self._lock = path, threading.Lock()
        with usable(path.parent):
            lines = path.read_bytes().splitlines() if path.exists() else []
        for line in lines:
            try:
                key, value = json.loads(line)
                super().__setitem__(key, read(value))
            except (ValueError, TypeError, RecursionError):
                continue

    def __setitem__(self, key: str, value: Value) -> None:
        line = "\n" + json.dumps([key, value])  # first ends a line that was cut off
        with self._lock, usable(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(line.encode())
            super().__setitem__(key, value)

    def end(self) -> None:
        """Remove the file: what is asked for next is measured anew.

        Raises:
            StoreError: it cannot be removed.
        """
        with usable(self._path.parent):
            self._path.unlink(missing_ok=True)


def reply_journal(fingerprint: str) -> Journal[CachedReply]:
    """Return the journal of a model's replies, by what was asked."""
    path = journal_file(fingerprint, "replies")
    return Journal(path, lambda reply: CachedReply(tuple(reply[0]), str(reply[1])))


def figure_journal(fingerprint: str) -> Journal[Any]:
    """Return the journal of a model's figures."""
    return Journal(journal_file(fingerprint, "figures"), lambda figures: figures)


def journal_file(fingerprint: str, what: str) -> Path:
    """Return where the journal of some measure of a model is."""
    return cache_folder() / "measuring" / f"{fingerprint}-{__version__}-{what}.jsonl"


def key_of(*parts: Any) -> str:
    """Return a key for what these decide on; each is known by its `repr`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
