"""What tells two replies apart besides the messages: the model's content and the steering's.

LangChain's LLM cache may outlive this process and an edit of a preset, so its key is made of
content, never of names alone. Nothing here loads a model or builds a preset.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from steerplug.engine.loading import DEFAULT, Loading
from steerplug.errors import SteerplugError, unreadable
from steerplug.files.shards import shards
from steerplug.library.presets import LibraryFile
from steerplug.library.recipe import Recipe
from steerplug.preset.mix import Ingredient
from steerplug.session.shared import Stamp, locate, stamp
from steerplug.version import __version__

_VERSIONS = version("llama-cpp-python"), __version__
_HEAD = 16 * 2**20
_SAMPLES, _SAMPLE = 64, 64 * 1024


def fingerprint_model(model: str, loading: Loading = DEFAULT) -> str:
    """Return what changes when a model's file or a LoRA, llama.cpp or steerplug does.

    Raises:
        ModelNotFound: there is no such model.
        SteerplugError: a file cannot be read.
    """
    paths = [*shards(locate(model)), *(Path(adapter) for adapter, _ in loading.lora)]
    with _readable(paths[-1]):
        files = [_fingerprint_file(path, stamp(path)) for path in paths]
    scales = [scale for _, scale in loading.lora]
    return _sha256([*files, *_VERSIONS, *scales])


def fingerprint_steering(words: str | None) -> str:
    """Return what changes when a mix says another strength or preset, or a preset's file changes.

    Raises:
        PresetError: the mix cannot be read, or a preset is not there or not good.
    """
    parts = Recipe.read(words).parts if words is not None else ()
    return _sha256(sorted(_content(ingredient, file) for ingredient, file in parts))


def _content(ingredient: Ingredient, file: LibraryFile) -> list[str]:
    path, preset = file.path, file.preset
    if preset is None:
        with _readable(path):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return ["file", path.stem, digest, repr(ingredient.sign), repr(ingredient.strength)]
    strength = ingredient.strength_at(preset.strength.default)
    came_in = str(preset.origin.folder) if preset.origin else ""
    return ["preset", preset.name, preset.version, preset.digest, came_in, repr(float(strength))]


@lru_cache(maxsize=64)
def _fingerprint_file(path: Path, now: Stamp) -> str:
    """Hash a model's size and time of change, its beginning, and samples of its weights.

    Hashing all of it would take half a minute for a large model.
    """
    _, size, changed = now
    sha = hashlib.sha256(f"{size} {changed}".encode())
    with _readable(path), path.open("rb") as file:
        sha.update(file.read(_HEAD))
        for i in range(1, _SAMPLES + 1):
            file.seek(max(size * i // _SAMPLES - _SAMPLE, 0))
            sha.update(file.read(_SAMPLE))
    return sha.hexdigest()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SteerplugError(f"{path} {unreadable(error)}") from None


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
