"""What is compiled for a session's model: found without waiting, and noticed when it changes."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from steerplug.build import Built, find_built, store_key
from steerplug.engine.engine import Engine
from steerplug.preset import Origin, Preset
from steerplug.session.shared import Stamp, stamp
from steerplug.store.store import Store


@dataclass(frozen=True)
class _Found:
    """What a look at the disk found, and what must stay as it was for that to hold."""

    built: Built | None
    looked_at: tuple[Path, ...]
    stamps: list[Stamp | None]


class Compiled:
    """The presets that are compiled for one model.

    Args:
        engine: the model.
        store: where what was built is kept.
    """

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine, self._store = engine, store
        self._found: dict[tuple[Origin | None, str, str], _Found] = {}

    def find(self, preset: Preset) -> Built | None:
        """Return the steering of a preset, in the store or with the preset, or None.

        Raises:
            SteeringError: it is damaged, or not what its name says.
            FitError: it does nothing on this model.
        """
        key = (preset.origin, preset.name, preset.digest)
        known = self._found.get(key)
        if known is None or _stamps(known.looked_at) != known.stamps:
            known = self._found[key] = self._look(preset)
        return known.built

    def _look(self, preset: Preset) -> _Found:
        kept = self._store.path(store_key(preset, self._engine)).parent
        folders = self._store.folder, kept  # a better file, by another method, may come as well
        before = _stamps(folders)
        built = find_built(preset, self._engine, store=self._store, near=True)
        file = (built.path,) if built else ()
        return _Found(built, (*folders, *file), [*before, *_stamps(file)])


def _stamps(paths: tuple[Path, ...]) -> list[Stamp | None]:
    return [_stamp(path) for path in paths]


def _stamp(path: Path) -> Stamp | None:
    with suppress(OSError):
        return stamp(path)
    return None
