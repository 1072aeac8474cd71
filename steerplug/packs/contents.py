"""What a pack holds: read from any source, verified, and put into a folder of our own.

Contract: a file is parsed only after its hash was found to be what `pack.lock` says, and `Contents`
exists only if every preset is a good one and every steering file is whole, finite, by steerplug,
of a preset of this pack as it is, and in the place of the model it was made for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from steerplug.errors import PackError, PresetError, SteeringError
from steerplug.files.yaml_file import MAX_BYTES, printable
from steerplug.packs import manifest as kinds
from steerplug.packs.manifest import HEAD, LOCK, Head, Manifest
from steerplug.packs.pack import Pack
from steerplug.packs.source import Source, check_total
from steerplug.preset import Preset
from steerplug.steering.terms import COMPILED, is_place
from steerplug.store.figures import number


@dataclass(frozen=True)
class Numbers:
    """One steering file of a pack.

    Args:
        path: the file, as it was verified.
        file: its name in the pack.
        preset: whose steering it is.
        model: fingerprint of the model it was made for.
        digest: of its numbers, as receipts name it.
        fidelity: what its author claims.
    """

    path: Path
    file: str
    preset: str
    model: str
    digest: str
    fidelity: Mapping[str, Any]

    @property
    def claim(self) -> float | None:
        """The share of the gap to the prompt that its author says it closes."""
        return number(self.fidelity.get("gap_closed"))


@dataclass(frozen=True)
class Contents:
    """A pack that was verified.

    Args:
        head: what its author says of it.
        manifest: its files and their hashes.
        digest: sha256 of its `pack.lock`.
        presets: name -> preset.
        numbers: its steering files.
        size: bytes of all its files.
    """

    head: Head
    manifest: Manifest
    digest: str
    presets: Mapping[str, Preset]
    numbers: tuple[Numbers, ...]
    size: int

    @property
    def title(self) -> str:
        """Name and version, as receipts say them."""
        return f"{self.head.name}@{self.head.version}"


def stage(source: Source, folder: Path) -> Contents:
    """Copy a pack into an empty folder, each file once its hash is right, and return what it holds.

    Raises:
        PackError: the pack breaks a rule of `packs` or of this module's contract.
    """
    _, lock = next(iter(source.read({LOCK: MAX_BYTES})))
    manifest = kinds.read_manifest(lock, f"{source.label}: {LOCK}")
    _refuse_unlisted(source, manifest)
    limits = {name: kinds.limit(name) or 0 for name in manifest.files}
    (folder / LOCK).write_bytes(lock)
    size = len(lock)
    for name, content in source.read(limits):
        if kinds.digest(content) != manifest.files[name]:
            raise PackError(
                f"{source.label}: `{name}` is not what pack.lock says it is; it was changed or "
                "damaged, so do not use this pack."
            )
        size += len(content)
        check_total(source.label, size)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return read_contents(folder, manifest, kinds.digest(lock), size, source.label)


def read_contents(folder: Path, manifest: Manifest, digest: str, size: int, label: str) -> Contents:
    """Return what a folder holds whose files have the hashes of its manifest."""
    head = kinds.read_head((folder / HEAD).read_bytes(), f"{label}: {HEAD}")
    presets = {name: _preset(folder, name, label) for name in manifest.presets}
    if not presets:
        raise PackError(f"{label} holds no preset; put a preset's YAML file into it.")
    read = partial(_numbers, folder, presets, label)
    return Contents(head, manifest, digest, presets, tuple(map(read, manifest.compiled)), size)


def contents_of(pack: Pack) -> Contents:
    """Return what a pack in use holds, once every file was found to be what was pinned.

    Raises:
        PackError: a file is missing or was changed since.
    """
    pack.verify()
    manifest = pack.manifest()
    size = sum((pack.folder / name).stat().st_size for name in (LOCK, *manifest.files))
    return read_contents(pack.folder, manifest, pack.pinned.sha256, size, pack.name)


def _refuse_unlisted(source: Source, manifest: Manifest) -> None:
    """Refuse a preset that nobody vouches for; other files are not read at all."""
    for name in source.top():
        is_preset = name.endswith((".yaml", ".yml")) and not name.startswith(".")
        if is_preset and name not in manifest.files:
            raise PackError(
                f"{source.label}: `{printable(name)}` is not in pack.lock; its author refreshes it "
                "with `steerplug pack`."
            )


def _preset(folder: Path, name: str, label: str) -> Preset:
    file = f"{name}.yaml"
    try:
        preset = Preset.from_yaml((folder / file).read_bytes(), f"{label}: {file}")
    except PresetError as error:
        raise PackError(str(error)) from None
    if preset.name != name:
        raise PackError(
            f"{label}: {file} says `name: {preset.name}`; its author calls the file "
            f"{preset.name}.yaml."
        )
    return preset


def _numbers(folder: Path, presets: Mapping[str, Preset], label: str, file: str) -> Numbers:
    from steerplug.steering.file import read_own

    path = folder / file
    try:
        steering, identity = read_own(path)
    except SteeringError as error:
        what = str(error).removeprefix(f"{path}: ")
        raise PackError(f"{label}: `{file}`: {what}") from None
    if identity is None:
        raise PackError(f"{label}: `{file}` does not say what it was made from; build it again.")
    preset = presets.get(identity.preset)
    if preset is None or preset.digest != identity.preset_digest:
        raise PackError(
            f"{label}: `{file}` was built from another `{identity.preset}` than the pack holds; "
            f"build it again, or remove it."
        )
    if not is_place(file.removeprefix(f"{COMPILED}/"), preset.name, identity.model):
        raise PackError(
            f"{label}: `{file}` is not what its name says, but `{preset.name}` for the model "
            f"{identity.model[:24]}; put it where `steerplug build` did."
        )
    return Numbers(path, file, preset.name, identity.model, steering.digest, identity.fidelity)
