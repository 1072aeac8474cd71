"""From a thought to the answer: the tokens that come in place of drawn ones.

A thought is ended by force when its budget is spent, or when the room that is left is what an
answer needs that is owed. Where one is owed, the thought before it is opened too, and what the
template writes between the two is written behind a thought that ended by itself.
"""

from collections import deque

from steerplug.engine.thoughts import Place, Thinking
from steerplug.engine.vocab import Vocab


class ForcedTokens:
    """The tokens that lead one reply from its thought to its answer.

    Args:
        thinking: how far its thoughts have come; read on by others.
        vocab: the model's vocabulary.
        budget: most tokens of thought; None: no limit of their own.
    """

    def __init__(self, thinking: Thinking, vocab: Vocab, budget: int | None) -> None:
        self.thinking, self._vocab, self._budget = thinking, vocab, budget
        self._forced = deque[int]()

    @property
    def is_free(self) -> bool:
        """Whether every token of thoughts is drawn."""
        return self._budget is None

    @property
    def n_around(self) -> int:
        """How many tokens stand around a thought, at most."""
        marks = self.thinking.marks
        return len(self._spelled(marks.opening)) + len(self._spelled(marks.closing + marks.lead))

    def next(self, last: int, n_left: int | None) -> int | None:
        """Return the token that comes next whatever is drawn, if there is one.

        Args:
            last: the token before it.
            n_left: how many more a thought may have before an answer that is owed; None: it is not.
        """
        thinking = self.thinking
        if not self._forced and thinking.in_thought and thinking.is_whole:
            is_spent = self._budget is not None and thinking.n_thought >= self._budget
            if (is_spent and not thinking.may_end_itself) or (n_left is not None and n_left <= 0):
                return self.end(last)
        owes = n_left is not None
        if not self._forced and owes and thinking.place is Place.START and thinking.is_ahead:
            self._forced.extend(self._spelled(thinking.marks.opening))
        return self._forced.popleft() if self._forced else None

    def end(self, last: int) -> int:
        """End the thought; return the first token of what ends it.

        Args:
            last: the token before it.
        """
        text = self.thinking.marks.closing + self.thinking.marks.lead
        has_line_end = self._vocab.piece(last, True).endswith(b"\n")
        self._forced.extend(self._spelled(text.lstrip() if has_line_end else text))
        return self._forced.popleft()

    def lead_on(self, token: int) -> None:
        """Go on from the token that ended a thought to the answer that is owed."""
        if self._forced or self.thinking.place is not Place.FRAME:
            return
        closing, lead = self.thinking.marks.closing, self.thinking.marks.lead
        rest = closing[len(closing.rstrip()) :] + lead
        if rest.strip() or not self._vocab.piece(token).endswith((b" ", b"\n")):
            self._forced.extend(self._spelled(rest))

    def _spelled(self, text: str) -> list[int]:
        return self._vocab.tokenize(text, special=True) if text else []
