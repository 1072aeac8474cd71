"""Which tokens spell which part of a text, told from the tokens' own bytes.

Tokenisers drop white space beside some control tokens and put a space before a first word: both are
passed over. Where tokens spell something else, such as an unknown character, it is not told.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from steerplug.engine.vocab import Vocab

_SPACE = b" \t\n\v\f\r"


class Spelling:
    """The tokens of a text, each with the bytes that it spells.

    Args:
        text: the text.
        tokens: its tokens.
        vocab: their vocabulary.
        n_before: how many of them stand before the text.
    """

    def __init__(
        self, text: str, tokens: Sequence[int], vocab: Vocab, n_before: int = 0
    ) -> None:
        self._text, self._data, self._n_before = text, text.encode("utf-8", "replace"), n_before
        self._starts, self._ends = list[int](), list[int]()
        self.is_whole = self._spell(tokens[n_before:], vocab)
        """Whether the tokens spell the text."""

    def _spell(self, tokens: Sequence[int], vocab: Vocab) -> bool:
        data, at = self._data, 0
        for token in tokens:
            piece = vocab.piece(token, True)
            while not data.startswith(piece, at):
                if piece[:1] == b" " and data.startswith(piece[1:], at):
                    piece = piece[1:]
                elif data[at : at + 1] and data[at : at + 1] in _SPACE:
                    at += 1
                else:
                    return False
            self._starts.append(at)
            at += len(piece)
            self._ends.append(at)
        return not data[at:].strip(_SPACE)

    def n_tokens(self, places: Iterable[int]) -> dict[int, int]:
        """Return how many tokens end before each of these places of the text."""
        counts, last, n_bytes = dict[int, int](), 0, 0
        for place in sorted(set(places)):
            n_bytes += len(self._text[last:place].encode("utf-8", "replace"))
            last = place
            n = bisect_left(self._starts, n_bytes)
            crosses = n > 0 and self._ends[n - 1] > n_bytes
            counts[place] = self._n_before + n - crosses
        return counts
