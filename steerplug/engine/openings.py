"""What begins a tool call: a mark among text, or a beginning of a reply that names a tool."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

from steerplug.engine.overlap import overlap


class Place(NamedTuple):
    """Where an opening stands in a text, and which of several it is."""

    begin: int
    end: int
    number: int = 0


@dataclass(frozen=True)
class Mark:
    """A fixed text.

    Args:
        text: the mark.
        first: whether it counts only as the first thing in a turn.
    """

    text: str
    first: bool = False

    def find(self, text: str) -> Place | None:
        """Return where it stands in a text."""
        begin = text.find(self.text)
        if begin < 0 or (self.first and text[:begin].strip()):
            return None
        return Place(begin, begin + len(self.text))

    def n_held(self, text: str) -> int:
        """Return how many characters at the end of a text may be its beginning."""
        if not self.first:
            return overlap(text, self.text)
        return len(text) if self.text.startswith(text.lstrip()) else 0

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks that it shows."""
        return (self.text,)

    @cached_property
    def in_bytes(self) -> "Mark":
        """The same for texts that have a character for each byte."""
        return Mark(self.text.encode().decode("latin-1"), self.first)


@dataclass(frozen=True)
class Beginning:
    """The beginning of a reply that is a call as a whole, in JSON, up to the tool's arguments.

    Args:
        pattern: the regular expression of it; all that it matches is ASCII.
        texts: what it matches, without white space.
    """

    pattern: str
    texts: tuple[str, ...]
    first: ClassVar[bool] = True
    marks: ClassVar[tuple[str, ...]] = ()

    def find(self, text: str) -> Place | None:
        """Return where it stands in a text."""
        begin = len(text) - len(text.lstrip())
        found = re.compile(self.pattern).match(text, begin)
        return Place(begin, found.end()) if found else None

    def n_held(self, text: str) -> int:
        """Return how many characters at the end of a text may be its beginning."""
        said = "".join(text.split())
        return len(text) if any(whole.startswith(said) for whole in self.texts) else 0

    @property
    def in_bytes(self) -> "Beginning":
        """The same for texts that have a character for each byte."""
        return self


Opening = Mark | Beginning


def find_opening(openings: Sequence[Opening], text: str, fresh: bool) -> Place | None:
    """Return the first of some openings in a text.

    Args:
        openings: what may begin a call.
        text: the latest of a turn.
        fresh: whether it is all of the turn.
    """
    places = [
        place._replace(number=number) for number, opening in enumerate(openings)
        if (fresh or not opening.first) and (place := opening.find(text))
    ]
    return min(places, default=None)


def n_held(openings: Sequence[Opening], text: str, fresh: bool) -> int:
    """Return how many characters at the end of a text may begin one of some openings."""
    counts = [opening.n_held(text) for opening in openings if fresh or not opening.first]
    return max(counts, default=0)
