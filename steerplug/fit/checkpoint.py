"""What an interrupted build had done, so that the next one goes on from there.

One file beside the result's place holds the replies, by what was asked, to fit on and to report on,
the deltas of finished blocks, and where a training is. A quick fit and the full one share the file
and its replies; deltas and training of each are its own. The file's name carries the key of the
result. A fit deletes what an older one of its preset left, by the same method on the same model; of
one by another method it takes the replies, and leaves the rest. The file is replaced whole after
each step, and read with its checksums; one that does not read is done over. Whoever fits holds the
lock of the result, so nobody else writes it.
"""

import json
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
from steerplug.fit.reply_cache import CachedReply
from steerplug.steering.value import Delta

log = logging.getLogger(__name__)

Key = TypeVar("Key")
Value = TypeVar("Value")
Arrays = dict[str, NDArray[Any]]

_SUFFIX = ".unfinished.npz"
_DAMAGE = (
    ValueError, TypeError, KeyError, EOFError, RecursionError, zipfile.BadZipFile, SteeringError
)  # fmt: skip
_REPLIES, _OF, _TRAINING, _QUICK = "replies", "of", "training-", "quick-"
_FIELDS = ("z", "W", "b", "Z", "act", "norm")


class _Saved(dict[Key, Value], Generic[Key, Value]):
    """A mapping that is saved with every value that is set."""

    def __init__(self, save: Callable[[], None], lock: threading.Lock) -> None:
        self._save, self._lock = save, lock

    def __setitem__(self, key: Key, value: Value) -> None:
        with self._lock:
            super().__setitem__(key, value)
            self._save()


class Checkpoint:
    """Replies by what was asked, and deltas by block; whatever is put in is saved.

    `training` holds the arrays of an unfinished one.

    Args:
        result: where the finished steering of the full fit will be: `<preset>-<key>.gguf` in a
            folder.
        quick: whether it is the quick fit that is kept here.
        model: fingerprint of the model.
        method: how it is fitted.

    Raises:
        StoreError: from every change that cannot be saved.
    """

    def __init__(
        self, result: Path, *, quick: bool = False, model: str = "", method: str = ""
    ) -> None:
        self._of = (model, method)
        self._path, self._lock = result.with_suffix(_SUFFIX), threading.Lock()
        self._is_quick, self._is_ended = quick, False
        self._of_the_other: Arrays = {}
        self.training: Arrays = {}
        self.replies: dict[str, CachedReply] = _Saved(self._save, self._lock)
        self.deltas: dict[int, Delta] = _Saved(self._save, self._lock)

    @property
    def is_there(self) -> bool:
        """Whether there is an unfinished fit to go on with."""
        return self._path.exists()

    def load(self) -> None:
        """Take up what is there, and delete what an older fit left that this one is in place of.

        Raises:
            StoreError: the folder cannot be used.
        """
        preset = self._path.name.rpartition("-")[0]
        with usable(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for other in self._path.parent.glob(f"{preset}-*{_SUFFIX}"):
                if other != self._path and other.name.rpartition("-")[0] == preset:
                    self._take_over(other)
            for left_over in left_overs(self._path):
                left_over.unlink(missing_ok=True)
            if self._path.exists():
                self._read()

    def _take_over(self, other: Path) -> None:
        """Take the replies of a fit by another method; delete one that this is in place of."""
        try:
            with np.load(other, allow_pickle=False) as file:
                of, replies = tuple(map(str, file[_OF])), _replies(file[_REPLIES])
        except (*_DAMAGE, OSError):
            of, replies = self._of, {}
        if of == self._of:
            other.unlink(missing_ok=True)
        elif of[0] == self._of[0]:
            self.replies.update(replies)

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
        """Delete what was kept: the fit is finished, or never will be.

        Of a quick fit the replies stay, for the full one, and what the full one had done.
        """
        with self._lock:
            if self._is_quick and (self.training or self.deltas):
                self.training = {}
                self.deltas.clear()
                self._save()
            self._is_ended = True
        if not self._is_quick:
            self._path.unlink(missing_ok=True)

    def _read(self) -> None:
        parts: dict[int, dict[str, Any]] = {}
        try:
            with self._path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays: Arrays = {name: file[name] for name in file}
            replies = _replies(arrays.pop(_REPLIES))
            arrays.pop(_OF, None)
            other = {name: array for name, array in arrays.items()
                     if name.startswith(_QUICK) != self._is_quick}
            own = {name.removeprefix(_QUICK): array for name, array in arrays.items()
                   if name not in other}
            training = {name.removeprefix(_TRAINING): array for name, array in own.items()
                        if name.startswith(_TRAINING)}
            for name, array in own.items():
                if name[0].isdigit():
                    number, of = name.split(".")
                    parts.setdefault(int(number), {})[of] = array if array.ndim else str(array)
            deltas = {il: Delta(**part) for il, part in parts.items()}
        except _DAMAGE as error:
            log.warning("%s is damaged (%s); the fit begins anew.", self._path, error)
            return
        self.replies.update(replies)
        self.deltas.update(deltas)
        self.training, self._of_the_other = training, other

    def _save(self) -> None:
        if self._is_ended:
            return
        with (
            usable(self._path.parent),
            whole_file(self._path, over=True) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez(file, **self._arrays())  # type: ignore[arg-type]

    def _arrays(self) -> Arrays:
        own: Arrays = {f"{_TRAINING}{name}": array for name, array in self.training.items()}
        for il, delta in self.deltas.items():
            own.update({f"{il}.{name}": np.array(getattr(delta, name)) for name in _FIELDS})
        mark, replies = _QUICK if self._is_quick else "", json.dumps(self.replies).encode()
        return {
            _REPLIES: np.frombuffer(replies, np.uint8), _OF: np.array(self._of),
            **{f"{mark}{name}": array for name, array in own.items()}, **self._of_the_other,
        }  # fmt: skip


def _replies(array: NDArray[Any]) -> dict[str, CachedReply]:
    told = json.loads(array.tobytes())
    return {name: CachedReply(tuple(map(int, tokens)), str(text))
            for name, (tokens, text) in told.items()}  # fmt: skip
