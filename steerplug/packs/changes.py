"""What changes when one version of a pack takes the place of another, in words."""

from collections.abc import Iterator

from steerplug.packs.contents import Contents, Numbers
from steerplug.preset import compare
from steerplug.store.figures import gap_closed

_LONG = 200


def changes(old: Contents, new: Contents) -> list[str]:
    """Return one line for each thing that is not as it was."""
    return [*_head(old, new), *_presets(old, new), *_numbers(old, new)]


def _head(old: Contents, new: Contents) -> Iterator[str]:
    for key in ("version", "license", "description"):
        before, after = getattr(old.head, key), getattr(new.head, key)
        if before != after:
            yield f"{key}: {_quoted(before)} becomes {_quoted(after)}"


def _presets(old: Contents, new: Contents) -> Iterator[str]:
    for name in sorted({*old.presets, *new.presets}):
        if name not in new.presets:
            yield f"{name}: goes away"
        elif name not in old.presets:
            yield f"{name}: is new"
        else:
            for change in compare.changes(old.presets[name], new.presets[name]):
                yield f"{name}: {change.key}: {_quoted(change.old)} becomes {_quoted(change.new)}"


def _numbers(old: Contents, new: Contents) -> Iterator[str]:
    before, after = _by_model(old), _by_model(new)
    for key in sorted({*before, *after}):
        model = key[1].rpartition("-")[0]
        if key not in after:
            yield f"{key[0]}: its steering for {model} goes away"
        elif key not in before:
            yield f"{key[0]}: brings steering for {model}"
        else:
            which = "the same" if before[key].digest == after[key].digest else "other"
            old_claim, new_claim = (gap_closed(side[key].fidelity) for side in (before, after))
            if which == "other" or old_claim != new_claim:
                claims = f"claimed gap closed {old_claim} becomes {new_claim}"
                yield f"{key[0]}: {which} numbers for {model}; {claims}"


def _by_model(contents: Contents) -> dict[tuple[str, str], Numbers]:
    return {(numbers.preset, numbers.model): numbers for numbers in contents.numbers}


def _quoted(value: str | None) -> str:
    if not value:
        return "nothing"
    line = " ".join(value.split())
    return f"`{line if len(line) <= _LONG else line[:_LONG] + '...'}`"
