"""Closing a constrained reply before its room runs out, so that it is whole when it is cut short.

At every step an ending is known: tokens that make the reply complete; see `endings`. A drawn token
is kept only if behind it an ending is found that still fits the room left; otherwise the reply
takes the first token of the ending it knew. So once an ending fits, the reply ends in time.

A regular expression needs no endings: near the end it is narrowed to what it matches with no more
characters than there is room for tokens. A reply for which nothing is found that fits runs until
its room ends.
"""

from collections.abc import Callable, Sequence

from steerplug.engine.constraint import Constraint, Regex, at_most
from steerplug.engine.endings import Place, completes, find_ending
from steerplug.engine.vocab import Vocab
from steerplug.errors import RequestError

_WATCHED, _MOST_NEEDED = 512, 4096
_LOOKS = (128, 64, 32, 16)


class Closing:
    """A constraint, and a known ending of what it holds a reply to.

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
        self._ending: list[int] | None = None
        self._narrowing = Narrowing(constraint, vocab, begun) if _is_regex(constraint) else None
        if self._narrowing:
            self.constraint = self._narrowing.narrowed(n_left) or constraint
        elif n_left <= _WATCHED:
            self._ending = self._find_ending(n_left)

    @property
    def fits(self) -> bool:
        """Whether the reply is sure to be whole in its room, or may be in a large one."""
        if self._left <= _WATCHED:
            return self._ending is not None
        needed = self.n_needed()
        return needed is None or needed <= self._left

    def n_needed(self) -> int | None:
        """Return with how many tokens the reply is sure to be whole; None where none are found."""
        ending = self._find_ending(_MOST_NEEDED)
        return None if ending is None else len(ending)

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
        before, known = self._place, self._ending
        self._go(token)
        self._left -= 1
        if self._left > _WATCHED:
            return token
        ending = self._still_an_ending(token, known) or self._find_ending(self._left)
        if ending is not None:
            self._ending = ending
        elif known is not None:
            ends = not known or not self._may_close()
            self.constraint.take_back()
            self._place, self._forced = before, True
            if ends:
                return self._vocab.eos
            self.cut_short = True
            token, self._ending = known[0], known[1:]
            self._go(token)
        return token

    def _go(self, token: int) -> None:
        self.constraint.accept(token)
        self._place = self._place.after(self._vocab.piece(token))

    def _still_an_ending(self, token: int, known: list[int] | None) -> list[int] | None:
        if known and known[0] == token:
            return known[1:]
        if known and len(known) <= self._left and completes(self.constraint, known, self._vocab):
            return known
        return None

    def _find_ending(self, most: int) -> list[int] | None:
        return find_ending(self.constraint, self._place, self._vocab, most)


class Narrowing:
    """A regular expression that is narrowed to shorter and shorter matches as room runs out."""

    def __init__(self, whole: Constraint, vocab: Vocab, begun: Sequence[int] = ()) -> None:
        self.whole, self._vocab = whole, vocab
        self._tokens, self._n_begun = list(begun), len(begun)

    def after(self, token: int, at: Constraint, n_left: int) -> Constraint:
        """Go on past a token from `at`; return what may follow from there on."""
        self._tokens.append(token)
        self.whole.accept(token)
        if at is not self.whole:
            at.accept(token)
            return at
        return self.narrowed(n_left) or at

    def narrowed(self, n_left: int) -> Constraint | None:
        """Return the narrower constraint if it is time for it, or None."""
        if (n_left not in _LOOKS and len(self._tokens) > self._n_begun) or n_left > _LOOKS[0]:
            return None
        if n_left > _LOOKS[-1] and self._within(n_left // 2):
            return None
        return self._within(n_left)

    def _within(self, n: int) -> Constraint | None:
        """Return what may follow if at most n characters do; None if nothing may."""
        assert isinstance(self.whole.grammar, Regex)
        n_characters = len(self._vocab.text(self._tokens))
        try:
            narrow = Constraint(self._vocab, at_most(self.whole.grammar, n_characters + n))
        except RequestError:
            return None
        return narrow if narrow.replay(self._tokens) else None


def _is_regex(constraint: Constraint) -> bool:
    return isinstance(constraint.grammar, Regex)
