"""What an interrupted fit had done, so that the next one goes on from there.

One file beside the result's place holds the teacher's replies, by question, the deltas of finished
blocks, and where a training is. Its name carries the key of the result: another preset, model or
version never reads it, and deletes what an older one of the preset left. It is replaced whole after
each step, and read with its checksums; one that does not read is done over. Whoever fits holds the
lock of the result, so nobody else writes it.
"""

import logging
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from steerplug.errors import SteeringError
from steerplug.files.cache_folder import usable
from steerplug.files.whole_file import left_overs, whole_file
from steerplug.steering.value import Delta

log = logging.getLogger(__name__)

Value = TypeVar("Value")
Arrays = dict[str, NDArray[Any]]

_SUFFIX = ".unfinished.npz"
_DAMAGE = (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, SteeringError)
_TRAINING = "training-"
_FIELDS = ("z", "W", "b", "Z", "act", "norm")


class _Saved(dict[int, Value], Generic[Value]):
    """A mapping that is saved with every value that is set."""

    def __init__(self, save: Callable[[], None], lock: threading.Lock) -> None:
        self._save, self._lock = save, lock

    def __setitem__(self, key: int, value: Value) -> None:
        with self._lock:
            super().__setitem__(key, value)
            self._save()


class Checkpoint:
    """Replies by the number of their question, and deltas by block; whatever is put in is saved.

    `training` holds the arrays of an unfinished one.

    Args:
        result: where the finished steering will be: `<preset>-<key>.gguf` in a folder.

    Raises:
        StoreError: from every change that cannot be saved.
    """

    def __init__(self, result: Path) -> None:
        self._path, self._lock = result.with_suffix(_SUFFIX), threading.Lock()
        self._is_ended = False
        self.training: Arrays = {}
        self.replies: dict[int, tuple[int, ...]] = _Saved(self._save, self._lock)
        self.deltas: dict[int, Delta] = _Saved(self._save, self._lock)

    def load(self) -> None:
        """Take up what is there, and delete what was kept of another fit of this preset.

        Raises:
            StoreError: the folder cannot be used.
        """
        preset = self._path.name.rpartition("-")[0]
        with usable(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for other in self._path.parent.glob(f"{preset}-*{_SUFFIX}"):
                if other != self._path and other.name.rpartition("-")[0] == preset:
                    other.unlink(missing_ok=True)
            for left_over in left_overs(self._path):
                left_over.unlink(missing_ok=True)
            if self._path.exists():
                self._read()

    def keep_training(self, state: Arrays) -> None:
        """Save where a training is."""
        with self._lock:
            self.training = state
            self._save()

    def keep_trained(self, deltas: Mapping[int, Delta]) -> None:
        """Save what came of a training, in the place of where it was."""
        with self._lock:
            self.training = {}
            self.deltas.update(deltas)
            self._save()

    def end(self) -> None:
        """Save nothing more: who still answers may come when another fit writes the file."""
        with self._lock:
            self._is_ended = True

    def drop(self) -> None:
        """Delete the file: the fit is finished, or never will be."""
        self.end()
        self._path.unlink(missing_ok=True)

    def _read(self) -> None:
        parts: dict[int, dict[str, Any]] = {}
        try:
            with self._path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                ends = np.cumsum(file["lengths"])
                tokens = np.split(file["tokens"], ends)[:-1]
                replies = {int(i): tuple(map(int, reply))
                           for i, reply in zip(file["questions"], tokens, strict=True)}
                training = {name.removeprefix(_TRAINING): file[name] for name in file
                            if name.startswith(_TRAINING)}
                for name in (name for name in file if name[0].isdigit()):
                    number, of = name.split(".")
                    array = file[name]
                    parts.setdefault(int(number), {})[of] = array if array.ndim else str(array)
            deltas = {il: Delta(**part) for il, part in parts.items()}
        except _DAMAGE as error:
            log.warning("%s is damaged (%s); the fit begins anew.", self._path, error)
            return
        self.replies.update(replies)
        self.deltas.update(deltas)
        self.training = training

    def _save(self) -> None:
        if self._is_ended:
            return
        replies = self.replies.values()
        arrays: Arrays = {
            "questions": np.array(list(self.replies), np.int64),
            "lengths": np.array([len(reply) for reply in replies], np.int64),
            "tokens": np.array([token for reply in replies for token in reply], np.int64),
        }
        for il, delta in self.deltas.items():
            arrays.update({f"{il}.{name}": np.array(getattr(delta, name)) for name in _FIELDS})
        arrays.update({f"{_TRAINING}{name}": array for name, array in self.training.items()})
        with (
            usable(self._path.parent),
            whole_file(self._path, over=True) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez(file, **arrays)  # type: ignore[arg-type]
