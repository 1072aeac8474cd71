"""The steering that comes with a preset: in its pack, and with steerplug."""

from pathlib import Path

from steerplug.library.presets import shipped_folder
from steerplug.packs.installed import pack_of
from steerplug.preset import Preset
from steerplug.steering.terms import COMPILED


def came_with(preset: Preset) -> list[tuple[Path, str]]:
    """Return the folders that may hold it, each with the pack that it belongs to, or empty."""
    origin = preset.origin
    in_pack = [(origin.folder / COMPILED, origin.pack)] if origin else []
    return [*in_pack, (shipped_folder() / COMPILED, "")]


def check_pinned(path: Path) -> None:
    """Refuse a file of a pack that is not what was pinned.

    Raises:
        PackError: it is not in the pack's lock, or was changed since.
    """
    if (pack := pack_of(path)) and path.exists():
        pack.content(path.relative_to(pack.folder).as_posix())
