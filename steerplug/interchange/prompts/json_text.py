"""JSON by strangers: plain values, or one sentence."""

import json
from collections import Counter
from typing import Any

from steerplug.errors import PresetError
from steerplug.files.yaml_file import printable


def read_json(text: str, source: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        PresetError: it is not JSON, nests too deep, or says a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise PresetError(
            f"{source}, line {error.lineno}: this is not valid JSON ({error.msg}); correct it."
        ) from None
    except RecursionError:
        raise PresetError(f"{source} nests too deep for a prompt; shorten it.") from None
    except ValueError as error:  # a key twice, a number of endless digits
        raise PresetError(
            f"{source} is no good JSON: {printable(str(error))}; correct it."
        ) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:30]!r} is there twice")
    return mapping


def decoded(content: bytes, source: str) -> str:
    """Return a text in UTF-8, its lines ended by one character.

    Raises:
        PresetError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise PresetError(
            f"{source} is not UTF-8 text (byte {error.start}); save it again as UTF-8."
        ) from None
