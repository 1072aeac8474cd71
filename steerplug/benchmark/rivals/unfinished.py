"""What an interrupted comparison had done, so that the next one goes on from there.

It lies at `rivals/MODEL` in the store, by the model's whole fingerprint, for nothing else that is
kept of a training says whose it is. One comparison of a preset on a model holds it, and another
waits for that one.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock

from steerplug.engine.model import Model
from steerplug.files.cache_folder import usable
from steerplug.fit.checkpoint import Checkpoint
from steerplug.preset import Preset
from steerplug.store.store import Store
from steerplug.version import __version__


@contextmanager
def unfinished(
    store: Store, preset: Preset, model: Model
) -> Iterator[tuple[Checkpoint, Checkpoint]]:
    """Hold the replies and the trainings of a comparison, as far as it had come.

    Raises:
        StoreError: the store cannot be used.
    """
    folder = store.folder / "rivals" / model.fingerprint
    key = hashlib.sha256(repr((preset.digest, __version__)).encode()).hexdigest()[:16]
    with usable(store.folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"rivals-{preset.name}.lock")
        lock.acquire()
    try:
        some = [Checkpoint(folder / f"{what}-{preset.name}-{key}.gguf")
                for what in ("said", "trained")]  # fmt: skip
        for kept in some:
            kept.load()
        yield some[0], some[1]
    finally:
        lock.release()
