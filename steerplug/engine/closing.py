"""Closing a constrained reply before its room runs out, so that it is whole when it is cut short.

At every step a way to close is known: tokens that make the reply complete. A drawn token is kept
only if from there a way to close is found that still fits the room left; otherwise the reply takes
the first step of the way it knew. So once a way fits, the reply ends in time.

Ways are found greedily, not proven shortest. JSON is closed by place: inside a text its quote,
elsewhere brackets, else the comma that required parts need, else a small value. Choices and Lark
grammars are searched breadth-first by single bytes, taking places from which the same tokens may
follow for one. A regular expression needs no ways: near the end it is narrowed to what it matches
with no more characters than there is room for tokens. A reply for which nothing is found that fits
runs until its room ends.
"""

import re
from collections import deque
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from steerplug.engine.constraint import Constraint, Regex, at_most
from steerplug.engine.vocab import Vocab
from steerplug.errors import RequestError

_WATCHED, _MOST_NEEDED = 512, 4096
_LOOKS = (128, 64, 32, 16)
_MOST_PLACES = 500
_STRUCTURE = (
    rb"[}\]]+",
    rb", ?",
    rb' ?(""[}\]]*|0[}\]]*|null|false|true|\{\}[}\]]*|\[\][}\]]*)',
    rb' ?("|[0-9]|\{|\[)|: ?',
    rb" ",
    rb"-",
)
_QUOTES = (rb'"[}\]]*',)


class Closing:
    """A constraint, and a known way to complete what it holds a reply to.

    Args:
        constraint: what may follow; it is moved on by `accept`.
        vocab: the model's vocabulary.
        n_left: most tokens of the reply.
        may_close: asked behind a token that leaves no room to become whole, whether another may
            take its place; if not, the reply ends before it.
        begun: tokens that the constraint has passed already.
    """

    def __init__(
        self,
        constraint: Constraint,
        vocab: Vocab,
        n_left: int,
        may_close: Callable[[], bool] = lambda: True,
        begun: Sequence[int] = (),
    ) -> None:
        self.constraint, self._may_close = constraint, may_close
        self._vocab, self._left = vocab, n_left
        self._forced = False
        self.cut_short = False
        """Whether what the reply holds is less than was drawn."""
        self._place = Place().after(b"".join(map(vocab.piece, begun)))
        self._way: list[int] | None = None
        self._narrowing = Narrowing(constraint, vocab, begun) if _is_regex(constraint) else None
        if self._narrowing:
            self.constraint = self._narrowing.narrowed(n_left) or constraint
        elif n_left <= _WATCHED:
            self._way = self._find_way(n_left)

    @property
    def fits(self) -> bool:
        """Whether the reply is sure to be whole in its room, or may be in a large one."""
        if self._left <= _WATCHED:
            return self._way is not None
        needed = self.n_needed()
        return needed is None or needed <= self._left

    def n_needed(self) -> int | None:
        """Return with how many tokens the reply is sure to be whole; None where none are found."""
        way = self._find_way(_MOST_NEEDED)
        return None if way is None else len(way)

    @property
    def was_forced(self) -> bool:
        """Whether the reply was closed because of its room, not because it had come to its end."""
        if self._narrowing and self.constraint is not self._narrowing.whole:
            return not self._narrowing.whole.is_complete
        return self._forced

    def accept(self, token: int) -> int:
        """Go on past a drawn token; return it, or the one that has to come instead."""
        if self._vocab.ends_generation(token):
            return token
        if self._narrowing:
            self._left -= 1
            self.constraint = self._narrowing.after(token, self.constraint, self._left)
            return token
        before, known = self._place, self._way
        self._go(token)
        self._left -= 1
        if self._left > _WATCHED:
            return token
        way = self._still_a_way(token, known) or self._find_way(self._left)
        if way is not None:
            self._way = way
        elif known is not None:
            ends = not known or not self._may_close()
            self.constraint.take_back()
            self._place, self._forced = before, True
            if ends:
                return self._vocab.eos
            self.cut_short = True
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

    def _find_way(self, most: int) -> list[int] | None:
        """Return a way of so many tokens at most, if one is found."""
        if self.constraint.may_end:
            return []
        if self.constraint.is_json:
            found = _close_json(self.constraint, self._place, self._vocab, most + most // 4)
        else:
            found = _search(self.constraint, self._vocab)
        way = found and self._in_fewer(found)
        return way if way and len(way) <= most else None

    def _in_fewer(self, found: list[int]) -> list[int]:
        text = b"".join(map(self._vocab.piece, found)).decode("utf-8", "ignore")
        fewer = self._vocab.tokenize(text)
        return fewer if len(fewer) < len(found) and self._completes(fewer) else found


class Narrowing:
    """A regular expression that is narrowed to shorter and shorter matches as room runs out."""

    def __init__(self, whole: Constraint, vocab: Vocab, begun: Sequence[int] = ()) -> None:
        self.whole, self._vocab = whole, vocab
        self._said, self._n_begun = list(begun), len(begun)

    def after(self, token: int, at: Constraint, n_left: int) -> Constraint:
        """Go on past a token from `at`; return what may follow from there on."""
        self._said.append(token)
        self.whole.accept(token)
        if at is not self.whole:
            at.accept(token)
            return at
        return self.narrowed(n_left) or at

    def narrowed(self, n_left: int) -> Constraint | None:
        """Return the narrower constraint if it is time for it, or None."""
        if (n_left not in _LOOKS and len(self._said) > self._n_begun) or n_left > _LOOKS[0]:
            return None
        if n_left > _LOOKS[-1] and self._within(n_left // 2):
            return None
        return self._within(n_left)

    def _within(self, n: int) -> Constraint | None:
        """Return what may follow if at most n characters do; None if nothing may."""
        assert isinstance(self.whole.grammar, Regex)
        n_said = len(self._vocab.text(self._said))
        try:
            narrow = Constraint(self._vocab, at_most(self.whole.grammar, n_said + n))
        except RequestError:
            return None
        return narrow if narrow.replay(self._said) else None


def _is_regex(constraint: Constraint) -> bool:
    return isinstance(constraint.grammar, Regex)


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
