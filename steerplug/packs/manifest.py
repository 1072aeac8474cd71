"""The two files that make a folder a pack: `pack.yaml` by its author, `pack.lock` by steerplug.

Contract: what is returned obeys its schema; a `Manifest` names only files that a pack may hold, so
its names are safe as paths below a folder on every system.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, Field, ValidationError

from steerplug.errors import PackError, PresetError
from steerplug.files.problems import explain
from steerplug.files.whole_file import write_whole
from steerplug.files.yaml_file import MAX_BYTES, printable, read_yaml
from steerplug.preset import Name, Version
from steerplug.preset.checks import TEXT, Frozen
from steerplug.steering import terms
from steerplug.steering.terms import COMPILED, PLACE, PRESET_NAME

HEAD, LOCK, README = "pack.yaml", "pack.lock", "README.md"
MAX_FILES = 1000
MAX_TOTAL = 512 * 2**20
MAX_TEXT = 2**20
SHIPPED = "steerplug"
"""What the presets that ship answer to, where a pack has one of the same name."""

_PRESET = re.compile(rf"{PRESET_NAME.pattern}\.yaml")
_COMPILED = re.compile(f"{COMPILED}/{PLACE.pattern}")
_TEXTS = (README, "LICENSE", "LICENSE.md", "LICENSE.txt")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", examples=["9f86d081884c7d65..."])]


def _not_shipped(name: str) -> str:
    if name == SHIPPED:
        raise ValueError(f"is {name!r}, which names the presets that ship; choose another")
    return name


PackName = Annotated[Name, AfterValidator(_not_shipped)]
HubModel = Annotated[
    str,
    Field(
        max_length=200,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$",
        examples=["Qwen/Qwen3-0.6B-GGUF"],
    ),
]


class Head(Frozen):
    """What the author says of a pack."""

    schema_: Literal["steerplug/pack-v1"] = Field(alias="schema")
    name: PackName
    version: Version = "1.0.0"
    description: Annotated[str, Field(max_length=1000), TEXT] = ""
    license: Annotated[str, Field(max_length=100), TEXT] = ""
    base_model: tuple[HubModel, ...] = Field(
        (),
        max_length=32,
        description="The models that its steering was built for, as the model hub calls them.",
        examples=[["Qwen/Qwen3-0.6B-GGUF"]],
    )


class Manifest(Frozen):
    """The sha256 of every file of a pack, by its name."""

    schema_: Literal["steerplug/pack-lock-v1"] = Field(alias="schema")
    files: Annotated[dict[str, Sha256], Field(min_length=1, max_length=MAX_FILES)]

    @property
    def presets(self) -> tuple[str, ...]:
        """The names of the presets, in order."""
        return tuple(sorted(name.removesuffix(".yaml") for name in self.files if is_preset(name)))

    @property
    def compiled(self) -> tuple[str, ...]:
        """The names of the steering files, in order."""
        return tuple(sorted(name for name in self.files if _COMPILED.fullmatch(name)))


def is_preset(name: str) -> bool:
    """Say whether the file of that name in a pack is a preset."""
    return name != HEAD and _PRESET.fullmatch(name) is not None


def limit(name: str) -> int | None:
    """Return how many bytes the file of that name may have; None if a pack may not hold it."""
    if name == HEAD or _PRESET.fullmatch(name):
        return MAX_BYTES
    if name == LOCK or name in _TEXTS:
        return MAX_TEXT if name != LOCK else MAX_BYTES
    return terms.MAX_BYTES if _COMPILED.fullmatch(name) else None


def digest(content: bytes) -> str:
    """Return the sha256 (hex) of a file."""
    return hashlib.sha256(content).hexdigest()


def read_head(content: bytes, source: str) -> Head:
    """Return what a `pack.yaml` says.

    Raises:
        PackError: it is not one.
    """
    return read_model(Head, content, source, "a pack.yaml")


def read_manifest(content: bytes, source: str) -> Manifest:
    """Return what a `pack.lock` says.

    Raises:
        PackError: it is not one, or names a file that a pack may not hold.
    """
    manifest = read_model(Manifest, content, source, "a pack.lock")
    for name in manifest.files:
        if name == LOCK or limit(name) is None:
            raise PackError(
                f"{source} names `{printable(name)}`, and a pack holds presets, compiled/, "
                "README.md and LICENSE alone; do not use this pack."
            )
    if HEAD not in manifest.files:
        raise PackError(f"{source} does not name {HEAD}; its author runs `steerplug pack` again.")
    return manifest


_REFRESH = "a pack's author refreshes it with `steerplug pack`"
_CURES = {
    "a pack.yaml": _REFRESH,
    "a pack.lock": _REFRESH,
    "a steerplug.lock": "remove it, and add the packs again with `steerplug add`",
}
_Model = TypeVar("_Model", bound=Frozen)


def read_model(model: type[_Model], content: bytes, source: str, what: str) -> _Model:
    """Return what a YAML file says, as a model; `what` it should be: a pack.yaml, a pack.lock, ...

    Raises:
        PackError: it is not plain YAML, or a key or value is wrong; the first one is named.
    """
    try:
        file = read_yaml(content, source)
        return model.model_validate(dict(file.data))
    except PresetError as error:
        raise PackError(str(error)) from None
    except ValidationError as error:
        sentence = explain(error, model, file, what)
        cure = "" if sentence.endswith("?") else f"; {_CURES[what]}."
        raise PackError(sentence.removesuffix(".") + cure) from None


def write_model(head: str, model: Frozen) -> bytes:
    """Return a YAML file that `read_model` reads as `model`, below a comment."""
    data: Mapping[str, Any] = model.model_dump(mode="json", by_alias=True)
    text: str = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=10_000)
    return f"# {head}\n{text}".encode()


def write_file(path: Path, content: bytes) -> None:
    """Put a file of a pack, or a lock, in its place, whole or not at all.

    Raises:
        PackError: the folder cannot be written.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise PackError(
            f"{path} cannot be written ({error.strerror}); choose a folder that you may write to."
        ) from None
