"""Closing a constrained reply before its room runs out, so that it is whole when it is cut short.

At every step a way to close is known: tokens that make the reply complete. A drawn token is kept
only if from there a way to close is found that still fits the room left; otherwise the reply takes
the first step of the way it knew. So once a way fits, the reply ends in time.

Ways are found greedily, not proven shortest. JSON is closed by place: inside a text its quote,
elsewhere brackets, else the comma that required parts need, else a small value. Other grammars are
searched breadth-first by single bytes, taking places from which the same tokens may follow for one.
A reply whose grammar has no way that fits, or none that is found, runs until its room ends.
"""

import re
from collections import deque
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from steerplug.engine.constraint import Constraint
from steerplug.engine.vocab import Vocab

_WATCHED = 512
_MOST_PLACES = 500
_STRUCTURE = (
    rb"[}\]]+",
    rb", ?",
    rb'""[}\]]*|0[}\]]*|null|false|true|\{\}[}\]]*|\[\][}\]]*',
    rb'"|[0-9]|-|\{|\[|: ?',
)
_QUOTES = (rb'"[}\]]*',)


class Closing:
    """A constraint, and a known way to complete what it holds a reply to.

    Args:
        constraint: what may follow; it is moved on by `accept`.
        vocab: the model's vocabulary.
        n_left: most tokens of the reply.
    """

    def __init__(self, constraint: Constraint, vocab: Vocab, n_left: int) -> None:
        self.constraint = constraint
        self.was_forced = False
        self._vocab, self._left = vocab, n_left
        self._place = Place()
        self._way: list[int] | None = None
        if n_left <= _WATCHED:
            self._way = self._find_way()

    def accept(self, token: int) -> int:
        """Go on past a drawn token; return it, or the one that has to come instead."""
        if self._vocab.ends_generation(token):
            return token
        before, known = self._place, self._way
        self._go(token)
        self._left -= 1
        if self._left > _WATCHED:
            return token
        way = self._still_a_way(token, known) or self._find_way()
        if way is not None and len(way) <= self._left:
            self._way = way
        elif known is not None:
            self.constraint.take_back()
            self._place, self.was_forced = before, True
            if not known:
                return self._vocab.eos
            token, self._way = known[0], known[1:]
            self._go(token)
        return token

    def _go(self, token: int) -> None:
        self.constraint.accept(token)
        self._place = self._place.after(self._vocab.piece(token))

    def _still_a_way(self, token: int, known: list[int] | None) -> list[int] | None:
        if known and known[0] == token:
            return known[1:]
        if known and len(known) <= self._left and self._completes(known):
            return known
        return None

    def _completes(self, way: Sequence[int]) -> bool:
        return self.constraint.admits([*way, self._vocab.eos])

    def _find_way(self) -> list[int] | None:
        if self.constraint.may_end:
            return []
        if self.constraint.is_json:
            return _close_json(self.constraint, self._place, self._vocab, self._left)
        return self._shortest_bytes()

    def _shortest_bytes(self) -> list[int] | None:
        found = _search(self.constraint, self._vocab)
        if found is None:
            return None
        text = b"".join(map(self._vocab.piece, found)).decode("utf-8", "ignore")
        fewer = self._vocab.tokenize(text)
        return fewer if len(fewer) < len(found) and self._completes(fewer) else found


class Place:
    """Where in JSON a text ends: inside a string or not, after a backslash or not."""

    def __init__(self, in_string: bool = False, escaped: bool = False) -> None:
        self.in_string, self.escaped = in_string, escaped

    def after(self, data: bytes) -> "Place":
        """Return the place after more bytes."""
        in_string, escaped = self.in_string, self.escaped
        for byte in data:
            if escaped:
                escaped = False
            elif byte == ord('"'):
                in_string = not in_string
            else:
                escaped = in_string and byte == ord("\\")
        return Place(in_string, escaped)


def _close_json(
    constraint: Constraint, place: Place, vocab: Vocab, most: int
) -> list[int] | None:
    words, walk, way = _words(vocab), constraint.copy(), list[int]()
    while len(way) <= most:
        if walk.may_end:
            return way
        for token in walk.forced() or [words.closest(walk.allowed(), place)]:
            way.append(token)
            walk.accept(token)
            place = place.after(vocab.piece(token))
    return None


def _search(constraint: Constraint, vocab: Vocab) -> list[int] | None:
    """Return single-byte tokens that complete a reply, as few as are found."""
    single = _words(vocab).single
    ways: deque[tuple[Constraint, list[int]]] = deque([(constraint.copy(), [])])
    seen: set[bytes] = set()
    while ways and len(seen) < _MOST_PLACES:
        at, way = ways.popleft()
        allowed = at.allowed()
        if (same := allowed.tobytes()) in seen:
            continue
        seen.add(same)
        for token in single[allowed[single]].tolist():
            further = at.copy()
            further.accept(token)
            if further.may_end:
                return [*way, token]
            ways.append((further, [*way, token]))
    return None


class _Words:
    """The tokens of a vocabulary that close, in the order in which they are tried."""

    def __init__(self, vocab: Vocab) -> None:
        pieces = [vocab.piece(token) for token in range(vocab.n_tokens)]
        self.length = np.array([len(piece) for piece in pieces])
        self.single = np.flatnonzero(self.length == 1)
        self._structure = self._matching(pieces, _STRUCTURE)
        self._quotes = self._matching(pieces, _QUOTES)

    def _matching(self, pieces: Sequence[bytes], patterns: Sequence[bytes]) -> NDArray[np.int64]:
        """Return tokens by the first pattern they match, longest first within one."""
        ordered: list[int] = []
        for pattern in map(re.compile, patterns):
            found = [i for i, piece in enumerate(pieces) if pattern.fullmatch(piece)]
            ordered += sorted(found, key=lambda i: -len(pieces[i]))
        return np.array(ordered, np.int64)

    def closest(self, allowed: NDArray[np.bool_], place: Place) -> int:
        """Return the allowed token that goes furthest towards an end."""
        wanted = self._quotes if place.in_string else self._structure
        usable = wanted[allowed[wanted]] if not place.escaped else wanted[:0]
        if len(usable):
            return int(usable[0])
        others = np.flatnonzero(allowed)
        length = self.length[others]
        return int(others[length.argmin() if place.escaped else length.argmax()])


_made: "WeakKeyDictionary[Vocab, _Words]" = WeakKeyDictionary()


def _words(vocab: Vocab) -> _Words:
    if vocab not in _made:
        _made[vocab] = _Words(vocab)
    return _made[vocab]
