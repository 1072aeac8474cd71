"""A chat's text as tokens, and exact spans of the assistant's turns among them.

A span runs from the boundary token (the last token before the assistant's first, which predicts it)
to the last token of the turn's content. It begins where the model began to answer, if the chat
still shows that, and else where the content does; it depends on the chat alone, and what a template
trims or drops is not looked for. A turn that calls tools goes on to the token that ends it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steerplug.chat.calls.plain import Message
from steerplug.chat.common import n_common
from steerplug.chat.outline import Outline
from steerplug.chat.pasted import Pasted
from steerplug.chat.spelling import Spelling
from steerplug.engine.scope import Prompt
from steerplug.engine.vocab import Vocab


@dataclass(frozen=True)
class Written:
    """A chat as text.

    Args:
        text: up to where the reply goes on.
        begin: where the reply begins, which may have begun already.
        earlier: the messages before it.
        outline: where they stand, if that was looked for.
    """

    text: str
    begin: int
    earlier: Sequence[Message]
    outline: Outline | None

    def turns(self) -> Iterator[tuple[Message, int, int]]:
        """Yield the assistant's messages, and where each begins and ends."""
        outline = self.outline
        for i, message in enumerate(self.earlier if outline else ()):
            if outline and message["role"] == "assistant":
                begin = outline.begins(i)
                place = outline.places.get(i)
                yield message, begin, max(begin, place.end) if place else begin


class Tokenizer:
    """What reads chats that a template wrote, in one vocabulary.

    Args:
        vocab: the vocabulary.
        pasted: what keeps control tokens out of what people wrote.
    """

    def __init__(self, vocab: Vocab, pasted: Pasted) -> None:
        self._vocab, self._pasted = vocab, pasted

    def prompt(self, written: Written, letter: str, *, spans: bool) -> Prompt:
        """Return the tokens of a chat, and where its turns are among them.

        Args:
            written: the chat.
            letter: what stands in control tokens that are text.
            spans: whether to look for earlier turns.
        """
        tokens = self._tokenize(written.text, letter)
        turns = list(written.turns()) if spans else []
        places = [written.begin, *(place for _, *both in turns for place in both)]
        n_before = self._n_tokens(written.text, tokens, letter, places)
        responses = list[tuple[int, int]]()
        for message, begin, end in turns:
            first = n_before[begin]
            last = n_before[end]
            if message.get("tool_calls"):
                last = self._end_of_turn(tokens, first)
            responses.append((max(first - 1, 0), max(last, first)))
        has_bos = bool(tokens) and tokens[0] == self._vocab.bos
        begun = len(tokens) - n_before[written.begin] if written.begin < len(written.text) else 0
        return Prompt(tuple(tokens), tuple(responses), has_bos, begun)

    def _tokenize(self, text: str, letter: str) -> list[int]:
        if letter in text:
            tokens = self._pasted.tokenize(text, letter)
        else:
            tokens = self._vocab.tokenize(text, special=True)
        if self._vocab.adds_bos and tokens[:1] != [self._vocab.bos]:
            tokens = [self._vocab.bos, *tokens]
        return tokens

    def _n_tokens(
        self, text: str, tokens: list[int], letter: str, places: Sequence[int]
    ) -> dict[int, int]:
        """Return how many of a text's tokens lie before each of these places of it."""
        if all(place == len(text) for place in places):
            return dict.fromkeys(places, len(tokens))
        plain = text.replace(letter, "")
        moved = {place: place - text.count(letter, 0, place) for place in places}
        added = self._vocab.adds_bos and not plain.startswith(self._bos_text)
        spelling = Spelling(plain, tokens, self._vocab, int(added))
        if spelling.is_whole:
            counts = spelling.n_tokens(moved.values())
            return {place: counts[at] for place, at in moved.items()}
        return {
            place: n_common(self._tokenize(text[:place], letter), tokens)
            for place in moved
        }

    @property
    def _bos_text(self) -> str:
        return self._vocab.piece(self._vocab.bos, True).decode("utf-8", "replace")

    def _end_of_turn(self, tokens: list[int], first: int) -> int:
        """Return where the turn ends that begins at `first`: at the token that ends a reply."""
        ends = self._vocab.ends_generation
        return next((i for i in range(first, len(tokens)) if ends(tokens[i])), first)
