"""Reads the values of settings that hold several things: LoRAs, overrides, devices, shares, ...

Each may be written as llama.cpp's shell does it (`a=b,c=d`), as a list of such texts, or as Python
and YAML would: a mapping, or pairs.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from steerplug.errors import ModelError
from steerplug.files.home import at_home

MAX_TEMPLATE = 100_000
_MAX_FILE = 4 * MAX_TEMPLATE  # a character has at most 4 bytes
"""Characters of a chat template; those of models have some 10,000."""

_MAX_KEY = _MAX_TEXT = 127
_ALL = -1
_TYPES: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}


def layers(name: str, value: Any) -> int:
    """Read how many blocks GPUs compute; llama.cpp's words for all of them are one number here."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ("all", "auto")):
        return _ALL
    try:
        number = None if isinstance(value, bool | float) else int(value)
    except (TypeError, ValueError):
        number = None
    if number is None or not -2 <= number < 2**31:
        raise ModelError(f"{name} is {value!r}; give a number such as 20, or all, or 0 for none.")
    return max(number, _ALL)


def devices(name: str, value: Any) -> tuple[str, ...]:
    """Read names of devices; `none` stands alone."""
    names = tuple(_texts(name, value, "such as CUDA0,CUDA1"))
    if "none" in names and len(names) > 1:
        raise ModelError(f"{name} is {','.join(names)}; none stands alone, or leave it out.")
    if len(set(names)) < len(names):
        raise ModelError(f"{name} is {','.join(names)}, which names a device twice; name it once.")
    return names


def shares(name: str, value: Any) -> tuple[float, ...]:
    """Read how several GPUs share a model."""
    if isinstance(value, str):
        value = [part for part in re.split("[,/]", value) if part.strip()]
    if not isinstance(value, Sequence):
        value = () if value is None else (value,)
    try:
        numbers = tuple(float(part) for part in value)
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or (
        numbers and not any(numbers)
    ):
        raise ModelError(f"{name} is {value!r}; give a share for each GPU, such as 3,1.")
    return numbers


def placements(name: str, value: Any) -> tuple[str, ...]:
    """Read where tensors are kept: patterns of their names, and a kind of buffer for each."""
    if isinstance(value, Mapping):
        value = [f"{pattern}={buffer}" for pattern, buffer in value.items()]
    texts = tuple(_texts(name, value, r"such as blk\.1\..*=CPU"))
    for text in texts:
        pattern, _, buffer = text.rpartition("=")
        if not (pattern and buffer):
            raise ModelError(f"{name} is {text!r}; write PATTERN=BUFFER, such as blk\\.1\\..*=CPU.")
        try:
            with warnings.catch_warnings(action="ignore"):  # of what only Python reads another way
                re.compile(pattern)
        except re.error as error:
            raise ModelError(f"{name} has the pattern {pattern!r} ({error}); correct it.") from None
    return texts


def overrides(name: str, value: Any) -> tuple[str, ...]:
    """Read metadata in place of the file's, as texts as llama.cpp reads them: `KEY=TYPE:VALUE`."""
    if isinstance(value, Mapping):
        value = [f"{key}={_spelled(name, key, item)}" for key, item in value.items()]
        return tuple(_override(name, text) for text in value)
    example = "such as tokenizer.ggml.add_bos_token=bool:false"
    return tuple(_override(name, text) for text in _texts(name, value, example))


def parsed(override: str) -> tuple[str, bool | int | float | str]:
    """Return key and value of an override that was read before."""
    key, _, rest = override.partition("=")
    kind, _, text = rest.partition(":")
    return key, text == "true" if kind == "bool" else _TYPES[kind](text)


def loras(name: str, value: Any) -> tuple[tuple[str, float], ...]:
    """Read LoRA adapters: files, each with its scale."""
    adapters = tuple(_loras(name, value))
    paths = [path for path, _ in adapters]
    for path in paths:
        if paths.count(path) > 1:
            raise ModelError(f"{name} names {path} twice; name it once, with the sum of scales.")
    return adapters


def template(name: str, value: Any) -> str | None:
    """Read a chat template: a text in Jinja as it is, or else the file that it names."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and "{" in value:
        text = value
    elif isinstance(value, str | PathLike):
        text = _content(name, at_home(Path(value), ModelError))
    else:
        raise ModelError(f"{name} is {value!r:.80}; give a text in Jinja, or the path of its file.")
    if len(text) > MAX_TEMPLATE:
        raise ModelError(
            f"{name} has {len(text)} characters; a chat template has at most {MAX_TEMPLATE}."
        )
    if not text.strip():
        raise ModelError(f"{name} is empty; give a text in Jinja, or leave it out.")
    return text


def _content(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
        if len(content) > _MAX_FILE:
            raise ModelError(
                f"{name} {path} is larger than {_MAX_FILE // 1000} kB; a chat template has at most "
                f"{MAX_TEMPLATE} characters."
            )
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{name} {path} is not UTF-8 text; give a template in Jinja.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"{name} is {str(path)[:200]!r}, which is neither a text in Jinja nor a file that can "
            f"be read ({reason}); give one of them, templates have no names here."
        ) from None


def _loras(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        value = list(value.items())
    elif isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, PathLike) or _is_pair(value):
        value = [value]
    elif not isinstance(value, Sequence):
        raise ModelError(f"{name} is {value!r}; give the path of an adapter in GGUF.")
    for item in value:
        path, scale = item if _is_pair(item) else _scaled(name, item)
        if isinstance(scale, bool) or not _is_finite(scale):
            raise ModelError(f"{name} {path} has the scale {scale!r}; give a number such as 0.5.")
        yield str(at_home(Path(fspath(path)), ModelError).absolute()), float(scale)


def _is_finite(number: Any) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)


def _is_pair(item: Any) -> bool:
    """Whether this is a path with its scale, rather than two paths."""
    if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 2:
        return False
    path, scale = item
    return isinstance(path, str | PathLike) and not isinstance(scale, str | PathLike | Sequence)


def _scaled(name: str, item: Any) -> tuple[Any, float]:
    if isinstance(item, PathLike):
        return item, 1.0
    if not isinstance(item, str) or not item:
        raise ModelError(f"{name} is {item!r}; give the path of an adapter in GGUF.")
    path, colon, scale = item.rpartition(":")
    try:
        return (path, float(scale)) if colon and path else (item, 1.0)
    except ValueError:
        return item, 1.0


def _texts(name: str, value: Any, example: str) -> Iterator[str]:
    """Yield the texts of a list, or of one text that commas divide."""
    if value is None:
        return
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    for item in value if isinstance(value, Sequence) else [value]:
        if not isinstance(item, str) or not item:
            raise ModelError(f"{name} holds {item!r}; give texts, {example}.")
        yield item


def _spelled(name: str, key: Any, value: Any) -> str:
    for kind, python in _TYPES.items():
        if type(value) is python:
            return f"{kind}:{str(value).lower() if kind == 'bool' else value}"
    raise ModelError(f"{name} gives {key!r} the value {value!r}; give a bool, int, float or str.")


def _override(name: str, text: str) -> str:
    """Return `KEY=TYPE:VALUE` in one spelling, or say what is wrong with it."""
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not (key and equals and colon):
        raise ModelError(
            f"{name} is {text!r}; write KEY=TYPE:VALUE, such as "
            "tokenizer.ggml.add_bos_token=bool:false."
        )
    if kind not in _TYPES:
        raise ModelError(f"{name} gives {key} the type {kind!r}; types are {', '.join(_TYPES)}.")
    if len(key.encode()) > _MAX_KEY or len(value.encode()) > _MAX_TEXT or "\0" in text:
        raise ModelError(f"{name} {text[:40]!r}... is too long; llama.cpp takes 127 bytes of each.")
    try:
        if kind == "bool" and value not in ("true", "false"):
            raise ValueError
        number = 0 if kind in ("str", "bool") else _TYPES[kind](value)
        if not math.isfinite(number) or (kind == "int" and not -(2**63) <= number < 2**63):
            raise ValueError
    except (ValueError, OverflowError):
        raise ModelError(f"{name} gives {key} the {kind} {value!r}, which is none.") from None
    return text
