"""Where presets are found: the user's folder, the presets that ship, or a path.

Contract: a reference with a separator, or ending in .yaml, .yml or .gguf, is a path; anything else
is a name, looked up first in the user's folder ($STEERPLUG_PRESETS, or the platform's data folder)
and then among the shipped presets. A preset's file is called after the preset, so a name leads to
one file and never out of its folder.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from steerplug.errors import PresetError, PresetNotFound, nearest
from steerplug.preset import FILE_SUFFIXES, Preset, is_preset_name
from steerplug.yaml_file import MAX_BYTES, printable


@dataclass(frozen=True)
class Listing:
    """One preset of the library; a broken one has an `error` in place of a `preset`.

    Args:
        name: what it is called in a mix.
        path: its file.
        shipped: whether it came with steerplug.
        preset: what the file says.
        error: or the sentence on what is wrong with it.
    """

    name: str
    path: Path
    shipped: bool
    preset: Preset | None = None
    error: str | None = None


def user_folder() -> Path:
    """Return the folder of the user's own presets; it need not exist."""
    chosen = os.environ.get("STEERPLUG_PRESETS")
    return (
        Path(chosen).expanduser()
        if chosen
        else user_data_path("steerplug", appauthor=False) / "presets"
    )


def shipped_folder(package: Path = Path(__file__).parent) -> Path:
    """Return the folder of the shipped presets: the checkout's if there is one, else the wheel's.

    An editable install has both, and its bundled copy is stale as soon as a preset is edited.
    """
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "presets").is_dir():
        return checkout / "presets"
    return package / "bundled_presets"


def is_path(reference: str) -> bool:
    """Say whether a reference is a path, and not a name."""
    return "/" in reference or "\\" in reference or reference.lower().endswith(FILE_SUFFIXES)


def is_steering_file(path: Path) -> bool:
    """Say whether the path names numbers (a GGUF), and not a preset in YAML."""
    return path.suffix.lower() == ".gguf"


def find_preset(reference: str) -> Path:
    """Return the file that a name or path refers to; it may be a GGUF if the path says so.

    Raises:
        PresetNotFound: there is none; the sentence names the nearest preset and lists all.
    """
    if is_path(reference):
        return _file_at(reference)
    files = _files()
    if is_preset_name(reference) and reference in files:
        return files[reference]
    guess = nearest(reference.lower(), files) or "; name one of these, or give a path"
    raise PresetNotFound(
        f"there is no preset `{printable(reference)}`{guess} (presets: "
        f"{', '.join(sorted(files))}; your own belong in {user_folder()})."
    )


def load_preset(reference: str) -> Preset:
    """Return the preset that a name or path refers to.

    Raises:
        PresetNotFound: there is none.
        PresetError: the file cannot be read, or is not a good preset.
    """
    return _read(find_preset(reference))


def list_presets() -> list[Listing]:
    """Return every preset by name, the user's own in place of shipped ones of the same name."""
    return [_listing(name, path) for name, path in sorted(_files().items())]


def _file_at(reference: str) -> Path:
    try:
        path = Path(reference).expanduser()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, or no such `~user`
        found = False
    if not found:
        raise PresetNotFound(
            f"there is no preset file `{printable(reference)}`; check the path, or give a preset's "
            "name."
        )
    return path


def _listing(name: str, path: Path) -> Listing:
    shipped = path.parent == shipped_folder()
    try:
        return Listing(name, path, shipped, preset=_read(path))
    except PresetError as error:
        return Listing(name, path, shipped, error=str(error))


def _files() -> dict[str, Path]:
    """Return file stem -> path, for both folders; the user's files win."""
    found: dict[str, Path] = {}
    for folder in (user_folder(), shipped_folder()):
        for path in _yaml_files(folder):
            found.setdefault(path.stem, path)
    return found


def _yaml_files(folder: Path) -> Iterator[Path]:
    try:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise PresetError(
            f"the folder {folder} cannot be read ({error.strerror}); check its permissions."
        ) from None
    yield from (p for p in paths if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))


def _read(path: Path) -> Preset:
    if is_steering_file(path):
        raise PresetError(
            f"{path} holds steering numbers, not a preset; use it in a mix, or name a YAML file."
        )
    try:
        if not path.is_file():
            raise PresetError(f"{path} is not a file; put a preset in its place or remove it.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PresetError(
            f"{path} cannot be read ({error.strerror}); check its permissions."
        ) from None
    preset = Preset.from_yaml(content, str(path))
    if preset.name != path.stem:
        raise PresetError(
            f"{path} says `name: {preset.name}`; call the file {preset.name}.yaml, or write "
            f"`name: {path.stem}`."
        )
    return preset
