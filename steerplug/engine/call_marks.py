"""Where tool calls stand in a turn: between marks, found in the bytes of its tokens.

A model writes its calls among its text, and what it writes around them are marks. Which tokens of a
turn stand in a call is a function of these tokens alone, so a turn that comes back as part of a
chat is read as it was when it was generated. What a model writes while it thinks is no call, and
not shown to a turn; see `thoughts`.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from steerplug.engine.constraint import Lark
from steerplug.engine.openings import Mark, Opening, find_opening, n_held
from steerplug.engine.thoughts import Segment, Thinking
from steerplug.engine.vocab import Vocab


@dataclass(frozen=True)
class Way:
    """One way to write calls, and what they are held to.

    Args:
        opening: what begins the first call.
        closing: the mark that ends calls; empty where they go on to the end of their turn.
        naming: what stands before the name of a call, as regular expressions: of the first, and
            of those after it.
        named: what shows that a name is whole, and all that stands between it and its arguments;
            likewise.
        n_arguments: how many characters of a text that begins with arguments are theirs, or None
            where they are not whole; None itself where they are a JSON object.
        then: what a reply follows once it has written the opening; its grammar begins with any
            text up to the end of that mark. None holds it to nothing.
    """

    opening: Opening
    closing: str = ""
    naming: tuple[str, str] = ("", "")
    named: tuple[str, str] = ("", "")
    n_arguments: Callable[[str], int | None] | None = None
    then: Lark | None = None

    def calls(self, text: str) -> Iterator[tuple[str, str | None]]:
        """Yield the names of calls in a text, with their arguments; None of one that goes on."""
        whole, until_arguments = self.named
        place, naming = 0, self.naming[0]
        while name := re.compile(f"{naming}(?P<name>.*?){whole}", re.DOTALL).search(text, place):
            begin = re.compile(f"{naming}.*?{until_arguments}", re.DOTALL).search(text, place)
            end = begin and self._end_of_arguments(text, begin.end())
            yield name["name"], text[begin.end() : end] if begin and end is not None else None
            if end is None:
                return
            place, naming = end, self.naming[1]

    def _end_of_arguments(self, text: str, begin: int) -> int | None:
        if self.n_arguments is not None:
            n = self.n_arguments(text[begin:])
            return None if n is None else begin + n
        try:
            return json.JSONDecoder().raw_decode(text, begin)[1]
        except ValueError:
            return None


@dataclass(frozen=True)
class CallMarks:
    """What a model writes around its calls, and whether they may be.

    Args:
        ways: the ways in which they are written.
        forbidden: whether an opening is never written.
        steered: whether steering acts on calls too.
    """

    ways: tuple[Way, ...]
    forbidden: bool = False
    steered: bool = False

    @cached_property
    def openings(self) -> list[Opening]:
        """What begins a call, in the bytes of tokens."""
        return [way.opening.in_bytes for way in self.ways]

    @cached_property
    def begin_later(self) -> re.Pattern[str]:
        """The first bytes of openings that may come in the midst of a text."""
        marks = [opening for opening in self.openings if isinstance(opening, Mark)]
        letters = "|".join(re.escape(mark.text[0]) for mark in marks if not mark.first)
        return re.compile(letters or "$^")


@dataclass(frozen=True)
class Turn:
    """A turn as far as it has come: in a call or not.

    Args:
        calls: the marks.
        vocab: the model's vocabulary.
        in_call: whether the next token belongs to a call.
        way: how calls are written that it has begun; None before the first.
        tail: the latest bytes, each as a character, which may be the beginning of a mark; None
            where none can come.
        fresh: whether the tail is all that it has said.
    """

    calls: CallMarks
    vocab: Vocab
    in_call: bool = False
    way: Way | None = None
    tail: str | None = ""
    fresh: bool = True

    def after(self, token: int) -> "Turn":
        """Return the turn with one more token."""
        if self.tail is None:
            return self
        piece = self.vocab.piece(token, True).decode("latin-1")
        is_text = not (self.in_call or self.fresh or self.tail)
        if is_text and not self.calls.begin_later.search(piece):
            return self
        turn = replace(self, tail=self.tail + piece)
        while (further := turn._past_a_mark()) is not None:
            turn = further
        return turn._trimmed()

    def passing(self, token: int, thinking: Thinking | None) -> "tuple[Turn, list[Segment]]":
        """Go on past a token, and so does what follows the thoughts of the turn.

        Args:
            token: the token.
            thinking: the turn's thoughts, none of which is shown to it.
        """
        if thinking is None:
            return self.after(token), []
        was_in_thought = thinking.in_thought
        turn = self if was_in_thought else self.after(token)
        if turn.way and (self.in_call or turn.in_call):
            data = self.vocab.piece(token, True)
            return turn, [Segment(False, thinking.read_call(data, turn.way.opening.marks))]
        segments = thinking.read(token)
        is_anew = was_in_thought or thinking.in_thought
        return (replace(turn, tail="", fresh=True) if is_anew else turn), segments

    def _past_a_mark(self) -> "Turn | None":
        """Return the turn behind the next mark in its tail, if there is one."""
        assert self.tail is not None
        if self.in_call:
            mark = self._closing
            _, found, rest = self.tail.partition(mark) if mark else ("", "", "")
            return replace(self, in_call=False, tail=rest, fresh=False) if found else None
        if opened := find_opening(self.calls.openings, self.tail, self.fresh):
            way = self.calls.ways[opened.number]
            return replace(self, in_call=True, way=way, tail=self.tail[opened.end :], fresh=False)
        return None

    @property
    def _closing(self) -> str:
        return Mark(self.way.closing).in_bytes.text if self.way else ""

    def _trimmed(self) -> "Turn":
        """Return the turn without what cannot be the beginning of a mark."""
        assert self.tail is not None
        if self.in_call:
            n = len(self._closing) - 1
            return replace(self, tail=self.tail[-n:] if n > 0 else "" if n == 0 else None)
        n = n_held(self.calls.openings, self.tail, self.fresh)
        fresh = self.fresh and n == len(self.tail)
        only_first = not fresh and all(opening.first for opening in self.calls.openings)
        return replace(self, tail=None if only_first else self.tail[len(self.tail) - n :],
                       fresh=fresh)  # fmt: skip

    @cached_property
    def shown(self) -> frozenset[int]:
        """Tokens that are marks, which are shown even where they are control tokens."""
        marks = [mark for way in self.calls.ways for mark in (*way.opening.marks, way.closing)]
        spelled = [self.vocab.tokenize(mark, special=True) for mark in marks if mark]
        return frozenset(tokens[0] for tokens in spelled if len(tokens) == 1)
