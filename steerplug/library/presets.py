"""Where presets are found: the user's folder, the presets that ship, the packs in use, or a path.

Contract: a name is looked up first in the user's folder ($STEERPLUG_PRESETS, or the platform's data
folder) and then among the shipped presets and those of the packs in use; where several have it, it
is refused, and `pack/preset` names one of them (`steerplug/preset` a shipped one). Anything else
with a separator, or ending in .yaml, .yml or .gguf, is a path. A preset's file is called after the
preset, so a name leads to one file and never out of its folder. A file of a pack is read only after
its hash was found to be the pinned one.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from platformdirs import user_data_path

from steerplug.errors import PresetError, PresetNotFound, nearest, unreadable
from steerplug.files.home import at_home
from steerplug.files.yaml_file import MAX_BYTES, printable
from steerplug.packs.installed import pack_of, packs
from steerplug.packs.manifest import SHIPPED
from steerplug.preset import FILE_SUFFIXES, Preset, is_preset_name


@dataclass(frozen=True)
class Listing:
    """One preset of the library; a broken one has an `error` in place of a `preset`.

    Args:
        name: what it is called in a mix.
        path: its file.
        shipped: whether it came with steerplug.
        preset: what the file says.
        error: or the sentence on what is wrong with it.
        pack: name and version of the pack it came in, such as "sea@1.2.0", if it came in one.
    """

    name: str
    path: Path
    shipped: bool
    preset: Preset | None = None
    error: str | None = None
    pack: str = ""


@dataclass(frozen=True)
class LibraryFile:
    """What a reference refers to: a preset's file, or one of steering numbers without a preset."""

    path: Path
    preset: Preset | None


def user_folder() -> Path:
    """Return the folder of the user's own presets; it need not exist.

    Raises:
        PresetError: it is in the home of nobody who is known here.
    """
    chosen = os.environ.get("STEERPLUG_PRESETS")
    folder = Path(chosen) if chosen else user_data_path("steerplug", appauthor=False) / "presets"
    return at_home(folder, PresetError, "set STEERPLUG_PRESETS to a folder")


def shipped_folder(package: Path = Path(__file__).parents[1]) -> Path:
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
        PresetError: several packs have a preset of that name.
    """
    qualified = _qualified()
    if reference in qualified:
        return qualified[reference]
    if is_path(reference):
        return _file_at(reference)
    own = _own()
    if is_preset_name(reference) and reference in own:
        return own[reference]
    matches = sorted(name for name in qualified if name.partition("/")[2] == reference)
    if len(matches) == 1:
        return qualified[matches[0]]
    if matches:
        raise PresetError(
            f"`{reference}` is the name of several presets; say which: {' or '.join(matches)}."
        )
    files = _files()
    guess = nearest(reference.lower(), files) or (
        f"; name one of these, or give a path (presets: {', '.join(sorted(files))}; your own "
        f"belong in {user_folder()})."
    )
    raise PresetNotFound(f"there is no preset `{printable(reference)}`{guess}")


def look_up(reference: str) -> LibraryFile:
    """Return the file that a name or path refers to, and the preset in it unless it is a GGUF.

    Raises:
        PresetNotFound: there is none.
        PresetError: the file cannot be read, or is not a good preset.
    """
    path = find_preset(reference)
    return LibraryFile(path, None if is_steering_file(path) else _read(path))


def load_preset(reference: str) -> Preset:
    """Return the preset that a name or path refers to.

    Raises:
        PresetNotFound: there is none.
        PresetError: the file cannot be read, or is not a good preset.
    """
    return preset_in(look_up(reference))


def preset_in(file: LibraryFile) -> Preset:
    """Return the preset of a file.

    Raises:
        PresetError: it holds steering numbers.
    """
    if file.preset is None:
        raise PresetError(
            f"{file.path} holds steering numbers, not a preset; use it in a mix, or name a YAML "
            "file."
        )
    return file.preset


def list_presets() -> list[Listing]:
    """Return every preset by the name to use for it, which is qualified where names clash.

    The user's own are listed in place of shipped ones of the same name.
    """
    return [_listing(name, path) for name, path in sorted(_files().items())]


def others_named(name: str, pack: str) -> list[str]:
    """Return what else the name of a preset of `pack` could mean, as a mix would say it."""
    own = [str(path) for stem, path in _own().items() if stem == name]
    others = [other for other in _qualified() if other.partition("/")[2] == name]
    return own + sorted(other for other in others if other != f"{pack}/{name}")


def _file_at(reference: str) -> Path:
    try:
        path = Path(reference).expanduser()
        is_there, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, or no such `~user`
        is_there = is_folder = False
    if is_folder:
        raise PresetNotFound(f"{printable(reference)} is a folder; name a preset's file in it.")
    if not is_there:
        raise PresetNotFound(
            f"there is no preset file `{printable(reference)}`; check the path, or give a preset's "
            "name, with its pack's before it if need be."
        )
    return path


def _listing(name: str, path: Path) -> Listing:
    shipped, pack = path.parent == shipped_folder(), pack_of(path)
    came_in = pack.origin.pack if pack else ""
    try:
        return Listing(name, path, shipped, preset=_read(path), pack=came_in)
    except PresetError as error:
        return Listing(name, path, shipped, error=str(error), pack=came_in)


def _files() -> dict[str, Path]:
    """Return name -> path of all presets; a name that is taken is qualified."""
    files, qualified = _own(), _qualified()
    names = Counter(full_name.partition("/")[2] for full_name in qualified)
    for full_name, path in qualified.items():
        pack, _, name = full_name.partition("/")
        if name not in files and names[name] == 1:
            files[name] = path
        elif pack != SHIPPED or names[name] > 1:
            files[full_name] = path
    return files


def _own() -> dict[str, Path]:
    """Return name -> path of the user's own presets."""
    files: dict[str, Path] = {}
    for path in _yaml_files(user_folder()):
        files.setdefault(path.stem, path)
    return files


def _qualified() -> dict[str, Path]:
    """Return pack/name -> path of the shipped presets and those of the packs in use."""
    shipped = {f"{SHIPPED}/{path.stem}": path for path in _yaml_files(shipped_folder())}
    return shipped | {
        f"{pack.name}/{name}": pack.folder / f"{name}.yaml"
        for pack in packs().values()
        for name in pack.pinned.presets
    }


def _yaml_files(folder: Path) -> Iterator[Path]:
    try:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise PresetError(f"the folder {folder} {unreadable(error)}") from None
    yield from (p for p in paths if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))


def _read(path: Path) -> Preset:
    pack = pack_of(path)
    if pack:
        content = pack.content(path.relative_to(pack.folder).as_posix())
        return _checked(path, content).from_pack(pack.origin)
    try:
        if not path.is_file():
            raise PresetError(f"{path} is not a file; put a preset in its place or remove it.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PresetError(f"{path} {unreadable(error)}") from None
    return _checked(path, content)


@lru_cache(maxsize=256)  # every reply asks for its presets
def _checked(path: Path, content: bytes) -> Preset:
    preset = Preset.from_yaml(content, str(path))
    if preset.name != path.stem:
        raise PresetError(
            f"{path} says `name: {preset.name}`; call the file {preset.name}.yaml, or write "
            f"`name: {path.stem}`."
        )
    return preset
