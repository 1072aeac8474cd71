"""How much of a text's end could begin a mark, and is held back until that is known."""

from typing import AnyStr


def overlap(text: AnyStr, mark: AnyStr) -> int:
    """Return how many characters, or bytes, at the end of `text` could begin `mark`."""
    begin = text.find(mark[:1], max(len(text) - len(mark) + 1, 0))
    while begin >= 0 and not mark.startswith(text[begin:]):
        begin = text.find(mark[:1], begin + 1)
    return len(text) - begin if begin >= 0 else 0
