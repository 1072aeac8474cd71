"""Tokens that make a constrained reply complete from where it stands.

They are found greedily, not proven the fewest. JSON is closed by place: inside a text its quote,
elsewhere what its grammar says closes it, brackets, else the comma that required parts need, else a
small value. Choices and Lark
grammars are searched breadth-first by single bytes, taking places from which the same tokens may
follow for one.
"""

import re
from collections import deque
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from steerplug.engine.constraint import Constraint, Lark
from steerplug.engine.vocab import Vocab

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


def completes(constraint: Constraint, tokens: Sequence[int], vocab: Vocab) -> bool:
    """Whether a reply is complete behind these tokens."""
    return constraint.admits([*tokens, vocab.eos])


def find_ending(
    constraint: Constraint, place: Place, vocab: Vocab, most: int
) -> list[int] | None:
    """Return an ending of at most so many tokens, if one is found.

    Args:
        constraint: what may follow.
        place: where in JSON the reply stands, if it is JSON.
        vocab: the model's vocabulary.
        most: most tokens.
    """
    if constraint.may_end:
        return []
    if constraint.is_json:
        ending = _close_json(constraint, place, vocab, most + most // 4)
    else:
        ending = _search(constraint, vocab)
    if ending:
        ending = _in_fewer(ending, constraint, vocab)
    return ending if ending and len(ending) <= most else None


def _in_fewer(ending: list[int], constraint: Constraint, vocab: Vocab) -> list[int]:
    """Return the same text in fewer tokens, if it has them."""
    text = b"".join(map(vocab.piece, ending)).decode("utf-8", "ignore")
    fewer = vocab.tokenize(text)
    is_shorter = len(fewer) < len(ending) and completes(constraint, fewer, vocab)
    return fewer if is_shorter else ending


def _close_json(
    constraint: Constraint, place: Place, vocab: Vocab, most: int
) -> list[int] | None:
    words, walk, ending = _words(vocab), constraint.copy(), list[int]()
    closers = _closers(constraint, vocab)
    while len(ending) <= most:
        if walk.may_end:
            return ending
        closer = None if place.in_string else next(filter(walk.admits, closers), None)
        for token in walk.forced() or closer or [words.closest(walk.allowed(), place)]:
            ending.append(token)
            walk.accept(token)
            place = place.after(vocab.piece(token))
    return None


def _closers(constraint: Constraint, vocab: Vocab) -> list[list[int]]:
    closers = constraint.grammar.closers if isinstance(constraint.grammar, Lark) else ()
    return [vocab.tokenize(closer, special=True) for closer in closers]


def _search(constraint: Constraint, vocab: Vocab) -> list[int] | None:
    """Return single-byte tokens that complete a reply, as few as are found."""
    single = _words(vocab).single
    ahead: deque[tuple[Constraint, list[int]]] = deque([(constraint.copy(), [])])
    seen: set[bytes] = set()
    while ahead and len(seen) < _MOST_PLACES:
        at, tokens = ahead.popleft()
        allowed = at.allowed()
        if (same := allowed.tobytes()) in seen:
            continue
        seen.add(same)
        for token in single[allowed[single]].tolist():
            further = at.copy()
            further.accept(token)
            if further.may_end:
                return [*tokens, token]
            ahead.append((further, [*tokens, token]))
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
            matching = [i for i, piece in enumerate(pieces) if pattern.fullmatch(piece)]
            ordered += sorted(matching, key=lambda i: -len(pieces[i]))
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
