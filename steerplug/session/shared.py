"""The sessions of this process: models that say the same thing share one, loaded when first used.

Constructing, copying and configuring chat models is therefore free; only the first reply loads
weights. A model file, or a LoRA, that was replaced on disk gets a new session; the old one is freed
when its last reply has ended.
"""

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from steerplug.engine import fork
from steerplug.engine.loading import DEFAULT, Loading
from steerplug.files.shards import shards
from steerplug.model_file import find_model

if TYPE_CHECKING:
    from steerplug.session.session import Session

Stamp = tuple[int, int, int]
"""Inode, size and time of change of a file: what tells that it was replaced."""


@dataclass
class _Slot:
    """Where one session is, or will be."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stamps: list[Stamp] | None = None
    session: "Session | None" = None


_lock = threading.Lock()
_slots: dict[tuple[Path, Loading], _Slot] = {}
_located: dict[tuple[str, str], Path] = {}


def _renew_locks() -> None:
    global _lock
    _lock = threading.Lock()
    for slot in _slots.values():
        slot.lock = threading.Lock()


fork.in_child(_renew_locks)


def session_for(model: str, loading: Loading = DEFAULT) -> "Session":
    """Return the shared session of a model, loading it if this is its first use.

    Args:
        model: a path, `hf:org/repo/file.gguf`, or an alias.
        loading: how it is loaded; another loading is another session.

    Raises:
        ModelNotFound, ModelError: the model is not there, cannot be steered, or not be loaded so.
    """
    from steerplug.session.session import Session

    path = locate(model)
    now = stamps([*shards(path), *(Path(adapter) for adapter, _ in loading.lora)])
    with _lock:
        slot = _slots.setdefault((path, loading), _Slot())
    with slot.lock:
        if slot.session is None or slot.stamps != now:
            slot.session, slot.stamps = Session(path, **vars(loading)), now
        return slot.session


def locate(model: str) -> Path:
    """Return the file of a model; a hub is asked once per process.

    Raises:
        ModelNotFound: there is no such model.
    """
    key = model, os.getcwd()
    known = _located.get(key)
    if known is None or not all(file.is_file() for file in shards(known)):
        known = _located[key] = find_model(model)
    return known


def stamps(files: Iterable[Path]) -> list[Stamp]:
    """Return the stamps of those files that are there."""
    return [stamp(file) for file in files if file.is_file()]


def stamp(path: Path) -> Stamp:
    """Return what changes when another file takes this one's place."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def forget_sessions() -> None:
    """Let go of all sessions; each is freed when nothing uses it any more."""
    with _lock:
        _slots.clear()
        _located.clear()
