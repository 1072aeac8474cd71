"""What a GGUF says of itself, read without NumPy: quick enough for a listing, and never believed.

Contract: no count or length is believed before it was checked against what was read, so a file by a
stranger costs no more than its size, and a listing no more than its first megabyte. What comes back
is what its author claims; `steering.file` verifies a file before a number of it is used.

Layout of GGUF 2 and 3, little-endian: `GGUF`, version u32, n_tensors u64, n_keys u64, then for each
key: name, kind u32, value; then for each tensor: name, rank u32, its shape u64 each, kind u32,
offset u64. A text is a length u64 and its bytes; a list is the kind u32 of its items, how many u64,
and they. Source: the GGUF specification.
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from steerplug.errors import SteeringError
from steerplug.steering.terms import MAX_BYTES, places

HEADER = 2**20
MAX_ENTRIES = 65_536
MAX_RANK = 4
CURE = "build or fetch the file again"
_NUMBERS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_TEXT, _LIST = 8, 9


class Claim(NamedTuple):
    """One key of a header: GGUF's number of its kind (4 is u32, 5 is i32), and its value."""

    kind: int
    value: Any


def read_claims(path: Path) -> dict[str, Claim]:
    """Return the keys of a GGUF header up to the first list; empty if it is no GGUF."""
    claims = {}
    try:
        with path.open("rb") as file:
            for name, claim in _Header(file.read(HEADER)).claims():
                if claim.kind == _LIST:
                    break
                claims[name] = claim
    except (OSError, ValueError, SteeringError):
        return {}
    return claims


def check_header(data: bytes) -> None:
    """Refuse a file whose header announces more than it holds, or than a steering file may.

    Raises:
        SteeringError: it does, or this is no GGUF.
        ValueError: a text is not UTF-8, or a kind is unknown.
    """
    header = _Header(data)
    for _ in header.claims():
        pass
    header.check_tensors()


def steering_claims(path: Path) -> dict[str, Any]:
    """Return what a steering file says under `steerplug.`, its fidelity as a mapping."""
    prefix = "steerplug."
    own = {
        key.removeprefix(prefix): claim.value
        for key, claim in read_claims(path).items()
        if key.startswith(prefix)
    }
    try:
        fidelity = json.loads(own.get("fidelity", "{}"))
    except (TypeError, ValueError, RecursionError):
        fidelity = {}
    return {**own, "fidelity": fidelity if isinstance(fidelity, dict) else {}} if own else {}


def kept_files(preset: str, folders: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the steering files kept for a preset, of whatever model, and what each says."""
    for folder in folders:
        for path in places(preset, folder):
            claims = steering_claims(path)
            if claims.get("preset") == preset:
                yield path, claims


class _Header:
    """Walks a GGUF header; `claims` comes first, then `check_tensors`."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._n_entries = data, 0, 0

    def claims(self) -> Iterator[tuple[str, Claim]]:
        """Yield each key and what it says; of a list that it is one, before it is walked."""
        if self._take(4) != b"GGUF" or self._number("I") not in (2, 3):
            raise SteeringError("it is not a GGUF file of version 2 or 3; give a steering file.")
        self._n_tensors, n_keys = self._number("Q"), self._number("Q")
        self._count(self._n_tensors + n_keys)
        for _ in range(n_keys):
            name, kind = self._text(), self._number("I")
            yield name, Claim(kind, None if kind == _LIST else self._value(kind))
            if kind == _LIST:
                self._skip_list()

    def check_tensors(self) -> None:
        """Refuse a tensor that cannot lie in a steering file."""
        for _ in range(self._n_tensors):
            self._text()
            rank = self._number("I")
            shape = [self._number("Q") for _ in range(rank if rank <= MAX_RANK else 0)]
            self._number("I")
            offset = self._number("Q")
            if not shape or not 0 < math.prod(shape) <= MAX_BYTES or offset > MAX_BYTES:
                raise SteeringError(f"a tensor lies beyond the end of the file; {CURE}.")

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind not in _NUMBERS:
            raise ValueError(f"{kind} is no kind of a GGUF value")
        return self._number(_NUMBERS[kind])

    def _skip_list(self) -> None:
        kind, n = self._number("I"), self._number("Q")
        if kind == _LIST:
            raise SteeringError(f"its header holds an array of arrays; {CURE}.")
        self._count(n)
        for _ in range(n):
            self._value(kind)

    def _count(self, n: int) -> None:
        self._n_entries += n
        if self._n_entries > MAX_ENTRIES:
            raise SteeringError(f"its header announces over {MAX_ENTRIES} entries; {CURE}.")

    def _take(self, n: int) -> bytes:
        if n > len(self._data) - self._at:
            raise SteeringError(f"it ends in the middle of its header; {CURE}.")
        self._at += n
        return self._data[self._at - n : self._at]

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0]

    def _text(self) -> str:
        return self._take(self._number("Q")).decode("utf-8")
