"""What a GGUF says of itself, read without NumPy: quick enough for a listing, and never believed.

Contract: the header is walked within its first megabyte, each count and length checked against what
was read, so a file by a stranger costs no more than that. What comes back is what its author
claims; `steering.file` verifies a file before a number of it is used.

Layout of GGUF 2 and 3, little-endian: `GGUF`, version u32, n_tensors u64, n_keys u64, then for each
key: name, kind u32, value. A text is a length u64 and its bytes. Source: the GGUF specification.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from steerplug.steering.terms import places

HEADER = 2**20
_NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING = 8


class Claim(NamedTuple):
    """One key of a header: GGUF's number of its kind (4 is u32, 5 is i32), and its value."""

    kind: int
    value: Any


def read_claims(path: Path) -> dict[str, Claim]:
    """Return the keys of a GGUF header up to the first list; empty if it is no GGUF."""
    try:
        with path.open("rb") as file:
            return _walk(file.read(HEADER))
    except (OSError, ValueError, struct.error):
        return {}


def steering_claims(path: Path) -> dict[str, Any]:
    """Return what a steering file says under `steerplug.`, its fidelity as a mapping."""
    prefix = "steerplug."
    found = {
        key.removeprefix(prefix): claim.value
        for key, claim in read_claims(path).items()
        if key.startswith(prefix)
    }
    try:
        fidelity = json.loads(found.get("fidelity", "{}"))
    except (TypeError, ValueError, RecursionError):
        fidelity = {}
    return {**found, "fidelity": fidelity if isinstance(fidelity, dict) else {}} if found else {}


def kept_files(preset: str, folders: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the steering files kept for a preset, of whatever model, and what each says."""
    for folder in folders:
        for path in places(preset, folder):
            claims = steering_claims(path)
            if claims.get("preset") == preset:
                yield path, claims


def _walk(data: bytes) -> dict[str, Claim]:
    magic, version, _, n_keys = struct.unpack_from("<4sIQQ", data)
    if magic != b"GGUF" or version not in (2, 3):
        return {}
    found, at = {}, 24
    for _ in range(min(n_keys, 65_536)):
        name, at = _text(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        value: Any
        if kind == _STRING:
            value, at = _text(data, at + 4)
        elif kind in _NUMBERS:
            form = "<" + _NUMBERS[kind]
            (value,), at = struct.unpack_from(form, data, at + 4), at + 4 + struct.calcsize(form)
        else:
            break
        found[name] = Claim(kind, value)
    return found


def _text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    if length > len(data) - at - 8:
        raise ValueError("a text ends beyond what was read")
    end = at + 8 + length
    return data[at + 8 : end].decode("utf-8"), end
