"""How two presets differ, in words: key by key, lists item by item, texts line by line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from steerplug.preset.preset import Preset


@dataclass(frozen=True)
class Change:
    """What one key says in one preset and not in the other; None is a key that is left out.

    Args:
        key: its dotted path, such as `teacher.system`.
        old: what the first preset says.
        new: what the second says.
    """

    key: str
    old: str | None
    new: str | None


def changes(old: Preset, new: Preset) -> list[Change]:
    """Return how `new` differs from `old`, in the order of the format's keys."""
    before, after = (preset.model_dump(mode="json", by_alias=True) for preset in (old, new))
    return list(_changes("", before, after))


def _changes(key: str, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _changes(f"{key}.{name}" if key else name, old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _items(key, [_text(item) for item in old], [_text(item) for item in new])
    elif isinstance(old, str) and isinstance(new, str) and "\n" in old + new:
        yield from _items(key, old.splitlines(), new.splitlines())
    else:
        yield Change(key, *(None if value is None else _text(value) for value in (old, new)))


def _items(key: str, old: list[str], new: list[str]) -> Iterator[Change]:
    """Yield the items that went, came, or changed in place."""
    for what, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what == "equal":
            continue
        gone, come = old[i1:i2], new[j1:j2]
        for k in range(max(len(gone), len(come))):
            yield Change(
                key, gone[k] if k < len(gone) else None, come[k] if k < len(come) else None
            )


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = {name: part for name, part in value.items() if part is not None}
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
