"""A folder of presets becomes a pack, or is refreshed: checked, described, its files hashed."""

from dataclasses import dataclass
from pathlib import Path

from steerplug.errors import PackError
from steerplug.packs import manifest as kinds
from steerplug.packs.contents import Contents, read_contents
from steerplug.packs.front_matter import with_front_matter
from steerplug.packs.manifest import HEAD, LOCK, README, Head, Manifest
from steerplug.packs.readme import with_presets
from steerplug.packs.source import Folder
from steerplug.preset import Preset, is_preset_name
from steerplug.steering.header import kept_files
from steerplug.steering.terms import COMPILED, MAX_BYTES
from steerplug.store.figures import is_quick

_HEAD_COMMENT = "What this pack is; raise the version when its presets change."
_LOCK_COMMENT = "The sha256 of every file of this pack, written by `steerplug pack`; do not edit."


@dataclass(frozen=True)
class Made:
    """A pack that was made: what it holds, and which of its files are not as they were."""

    contents: Contents
    changed: tuple[str, ...]
    old_version: str


def make_pack(folder: Path, kept: Path | None = None) -> Made:
    """Make a folder of presets a pack, or refresh it.

    Args:
        folder: holds the presets; gets pack.yaml (if there is none), README.md and pack.lock.
        kept: a store of steering, such as the user's cache; what it has for the presets as they
            are is copied into `folder/compiled`.

    Raises:
        PackError: a file in it cannot be part of a pack; then nothing has changed.
    """
    if not folder.is_dir():
        raise PackError(f"there is no folder `{folder}`; name one that holds presets.")
    source = Folder(folder, str(folder))
    new = {} if (folder / HEAD).exists() else {HEAD: _first_head(source)}
    new |= _copies(source, kept) if kept else {}
    written: list[Path] = []
    try:
        for name, content in new.items():
            written.append(folder / name)
            kinds.write_file(folder / name, content)
        return _described(source)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _described(source: Folder) -> Made:
    """Check what the folder holds, and write its README and its lock."""
    folder, label = source.root, source.label
    old, old_version = _before(folder)
    files = dict(source.read({name: kinds.limit(name) or 0 for name in _names(source)}))
    hashes = {name: kinds.digest(content) for name, content in sorted(files.items())}
    size = sum(map(len, files.values()))
    contents = read_contents(folder, _manifest(hashes), "", size, label)
    readme = _readme(_decoded(files.get(README, b""), label), contents, label).encode()
    hashes[README] = kinds.digest(readme)
    manifest = _manifest(dict(sorted(hashes.items())))
    lock = kinds.write_model(_LOCK_COMMENT, manifest)
    kinds.read_manifest(lock, f"{label}: {LOCK}")
    kinds.write_file(folder / README, readme)
    kinds.write_file(folder / LOCK, lock)
    size += len(readme) - len(files.get(README, b"")) + len(lock)
    contents = Contents(
        contents.head, manifest, kinds.digest(lock), contents.presets, contents.numbers, size
    )
    changed = sorted(n for n in {*old, *hashes} if old.get(n) != hashes.get(n) and n != README)
    return Made(contents, tuple(changed), old_version)


def _readme(readme: str, contents: Contents, label: str) -> str:
    return with_front_matter(with_presets(readme, contents), contents, label)


def _names(source: Folder) -> list[str]:
    """Return the files that belong to a pack; a preset or steering file that cannot is refused."""
    names = [name for name in source.top() if kinds.limit(name) is not None and name != LOCK]
    odd = [
        name for name in source.top()
        if name.lower().endswith((".yaml", ".yml", ".gguf")) and name not in names
        and not name.startswith(".")
    ]  # fmt: skip
    compiled = (source.root / COMPILED).rglob("*.gguf")
    steering = [path.relative_to(source.root).as_posix() for path in compiled]
    odd += [name for name in steering if kinds.limit(name) is None]
    if odd:
        raise PackError(
            f"{source.label}: `{min(odd)}` cannot be part of a pack; presets are NAME.yaml with a "
            "name of a-z 0-9 . _ -, and steering lies in compiled/ as `steerplug build` names it."
        )
    return sorted([*names, *steering])


def _before(folder: Path) -> tuple[dict[str, str], str]:
    """Return the hashes that the last `pack.lock` has, and the version that its presets had."""
    path = folder / LOCK
    if not path.is_file() or path.is_symlink():
        return {}, ""
    manifest = kinds.read_manifest(path.read_bytes(), str(path))
    head = (folder / HEAD).read_bytes()
    is_same = kinds.digest(head) == manifest.files[HEAD]
    return manifest.files, kinds.read_head(head, str(folder / HEAD)).version if is_same else ""


def _first_head(source: Folder) -> bytes:
    """Return the `pack.yaml` of a folder that has none: its name, and its presets' licence."""
    name = source.root.resolve().name.lower()
    if not is_preset_name(name):
        raise PackError(
            f"the folder's name `{name}` cannot name a pack; rename it, or write {HEAD} with "
            "`schema: steerplug/pack-v1` and a `name:` of a-z 0-9 . _ -."
        )
    licenses = {preset.license for preset in _presets(source)}
    license = licenses.pop() if len(licenses) == 1 else ""
    head = Head(schema="steerplug/pack-v1", name=name, license=license)
    return kinds.write_model(_HEAD_COMMENT, head)


def _presets(source: Folder) -> list[Preset]:
    names = [name for name in source.top() if kinds.is_preset(name)]
    read = source.read({name: kinds.limit(name) or 0 for name in names})
    return [Preset.from_yaml(content, f"{source.label}: {name}") for name, content in read]


def _copies(source: Folder, kept: Path) -> dict[str, bytes]:
    """Return the steering that a store has for the presets as they are, by its name in a pack.

    What a quick fit made is not for others.
    """
    copies: dict[str, bytes] = {}
    for preset in _presets(source):
        for path, claims in kept_files(preset.name, [kept]):
            place = path.relative_to(kept).as_posix()
            name = f"{COMPILED}/{place}"
            is_its = claims.get("preset_digest") == preset.digest
            if is_its and not is_quick(claims["fidelity"]) and not (source.root / name).exists():
                ((_, copies[name]),) = Folder(kept, str(kept)).read({place: MAX_BYTES})
    return copies


def _manifest(hashes: dict[str, str]) -> Manifest:
    return Manifest(schema="steerplug/pack-lock-v1", files=hashes)


def _decoded(readme: bytes, label: str) -> str:
    try:
        return readme.decode("utf-8")
    except UnicodeDecodeError:
        raise PackError(f"{label}: {README} is not UTF-8 text; save it again as UTF-8.") from None

