"""What one setting of a model's loading may be: how it is read, and how it is said on the shell.

Doors hand over what somebody wrote: Python's numbers, YAML's lists and mappings, words of a shell.
A reader makes one value of all of them, and says in one sentence what it cannot read.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from steerplug.errors import ModelError, nearest

Read = Callable[[str, Any], Any]
"""From a setting's name and what somebody wrote to its value, or a `ModelError`."""


@dataclass(frozen=True)
class Setting:
    """What a setting may be, and does.

    Args:
        meaning: what it does, in a line.
        default: what it is if nobody says.
        read: what makes its value of what somebody wrote.
        kind: what its value is on the shell: `int`, `float`, `bool` or `str`.
        many: whether it may be given several times.
        metavar: how its value is called there.
        flags: its flags, besides the one named as it is.
        group: under which title it is listed there.
        shapes_replies: whether replies depend on it beyond the rounding of sums.
    """

    meaning: str
    default: Any
    read: Read
    kind: type
    many: bool = False
    metavar: str | None = None
    flags: tuple[str, ...] = ()
    group: str = ""
    shapes_replies: bool = False


def setting(default: Any, meaning: str, *flags: str, **about: Any) -> Any:
    """Return a field of a dataclass that is a setting; `about` is what else `Setting` holds."""
    made = Setting(meaning, default, flags=flags, **about)
    return field(default=default, metadata={"setting": made})


def whole(low: int, high: int, unset: int | None = None) -> Read:
    """Return what reads whole numbers of a range; `unset` is what llama.cpp says for none."""

    def read(name: str, value: Any) -> int | None:
        number = _number(value, int)
        if value is None or (unset is not None and number == unset):
            return None
        if number is None:
            raise ModelError(f"{name} is {value!r}; give a whole number such as {max(low, 1)}.")
        if not low <= number <= high:
            raise ModelError(f"{name} is {value}; choose {low} to {high}.")
        return int(number)

    return read


def real(low: float, high: float, unset: float | None = None) -> Read:
    """Return what reads numbers of a range; `unset` is one outside it that means: as trained."""

    def read(name: str, value: Any) -> float:
        number = _number(value, float)
        if number is None or not math.isfinite(number):
            raise ModelError(f"{name} is {value!r}; give a number such as {max(low, 1.0):g}.")
        if number != unset and not low <= number <= high:
            also = "" if unset is None else f", or {unset:g} for the model's own"
            raise ModelError(f"{name} is {value}; choose {low:g} to {high:g}{also}.")
        return float(number)

    return read


def switch(name: str, value: Any) -> bool:
    """Read what is on or off."""
    word = str(value).lower() if isinstance(value, bool | str) else ""
    if word not in (*_ON, *_OFF):
        raise ModelError(f"{name} is {value!r}; say true or false.")
    return word in _ON


def choice(names: Mapping[str, int], also: Mapping[Any, str | None] | None = None) -> Read:
    """Return what reads one of these names, or llama.cpp's number of it.

    Args:
        names: llama.cpp's number of each name.
        also: what else may be said, and the name that it means; None: nothing is said.
    """
    by_number = {number: name for name, number in names.items()}

    def read(name: str, value: Any) -> str | None:
        key = value.strip().lower() if isinstance(value, str) else value
        if key is None or isinstance(key, bool | str | int):
            for known, meant in (also or {}).items():
                if key == known and type(key) is type(known):
                    return meant
        if isinstance(key, str) and key.isdecimal():
            key = int(key)
        if isinstance(key, int) and not isinstance(key, bool) and key in by_number:
            return by_number[key]
        if isinstance(key, str) and key in names:
            return key
        guess = nearest(key, names) if isinstance(key, str) else ""
        raise ModelError(f"{name} is {value!r}{guess or ';'} choose {', '.join(names)}.")

    return read


def _number(value: Any, kind: type) -> Any:
    """Return the number that a value is or spells, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if kind is int and isinstance(value, float):
        return None
    try:
        return kind(value)
    except (ValueError, OverflowError):
        return None


_ON = ("true", "on", "yes", "1")
_OFF = ("false", "off", "no", "0")
