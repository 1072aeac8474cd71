"""Where tool calls stand in a turn: between marks, found in the bytes of its tokens.

A model writes its calls among its text, and what it writes around them are marks. Which tokens of a
turn stand in a call is a function of these tokens alone, so a turn that comes back as part of a
chat is read as it was when it was generated. What a model writes while it thinks is no call, and
not shown to a turn; see `thoughts`.
"""

import json
import re
from dataclasses import dataclass, replace
from functools import cached_property

from steerplug.engine.constraint import Lark
from steerplug.engine.thoughts import Said, Thinking
from steerplug.engine.vocab import Vocab


@dataclass(frozen=True)
class CallMarks:
    """What a model writes around its calls, and what they are held to.

    Args:
        opening: the mark that begins a call.
        closing: the mark that ends it; empty where a call goes on to the end of its turn.
        first: whether the opening counts only as the first thing in a turn.
        naming: what stands before the name of a call, as regular expressions: of the first, and
            of those after it.
        named: what shows that a name is whole, and all that stands between it and its arguments,
            which are a JSON object; likewise.
        then: what a reply follows once it has written the opening; its grammar begins with any
            text up to the end of that mark. None holds it to nothing.
        forbidden: whether the opening is never written.
        steered: whether steering acts on calls too.
    """

    opening: str
    closing: str = ""
    first: bool = False
    naming: tuple[str, str] = ("", "")
    named: tuple[str, str] = ("", "")
    then: Lark | None = None
    forbidden: bool = False
    steered: bool = False

    def has_named(self, text: str) -> bool:
        """Whether a reply with this text has named a tool to call."""
        return re.search(f"{self.naming[0]}.*?{self.named[0]}", text, re.DOTALL) is not None

    def is_named(self, text: str) -> bool:
        """Whether a reply with this text is in a call, past its name and before its end."""
        whole, until_arguments = self.named
        place, naming = 0, self.naming[0]
        while re.compile(f"{naming}.*?{whole}", re.DOTALL).search(text, place):
            begin = re.compile(f"{naming}.*?{until_arguments}", re.DOTALL).search(text, place)
            if begin is None:
                return True
            try:
                _, place = json.JSONDecoder().raw_decode(text, begin.end())
            except ValueError:
                return True
            naming = self.naming[1]
        return False


@dataclass(frozen=True)
class Turn:
    """A turn as far as it has come: in a call or not.

    Args:
        calls: the marks.
        vocab: the model's vocabulary.
        in_call: whether the next token belongs to a call.
        tail: the latest bytes, which may be the beginning of a mark; None where none can come.
    """

    calls: CallMarks
    vocab: Vocab
    in_call: bool = False
    tail: bytes | None = b""

    def after(self, token: int) -> "Turn":
        """Return the turn with one more token."""
        if self.tail is None:
            return self
        in_call, tail = self.in_call, self.tail + self.vocab.piece(token, True)
        while (mark := self._mark(in_call)) and mark in tail and self._counts(in_call, tail):
            in_call, tail = not in_call, tail[tail.index(mark) + len(mark) :]
        return replace(self, in_call=in_call, tail=self._rest(in_call, tail))

    def passing(self, token: int, thinking: Thinking | None) -> "tuple[Turn, list[Said]]":
        """Go on past a token, and so does what follows the thoughts of the turn.

        Args:
            token: the token.
            thinking: the turn's thoughts, none of which is shown to it.
        """
        if thinking is None:
            return self.after(token), []
        was_in_thought = thinking.in_thought
        turn = self if was_in_thought else self.after(token)
        if self.in_call or turn.in_call:
            data = self.vocab.piece(token, True)
            return turn, [Said(False, thinking.read_call(data, [self.calls.opening]))]
        said = thinking.read(token)
        is_anew = was_in_thought or thinking.in_thought
        return (replace(turn, tail=b"") if is_anew else turn), said

    def _mark(self, in_call: bool) -> bytes:
        return (self.calls.closing if in_call else self.calls.opening).encode()

    def _counts(self, in_call: bool, tail: bytes) -> bool:
        return in_call or not self.calls.first or tail.lstrip().startswith(self._mark(False))

    def _rest(self, in_call: bool, tail: bytes) -> bytes | None:
        """Return what may yet be the beginning of a mark; None where no mark can come."""
        mark = self._mark(in_call)
        if not mark:
            return None
        if self.calls.first and not in_call:
            begun = tail.lstrip()
            return tail if mark.startswith(begun[: len(mark)]) else None
        return tail[-len(mark) + 1 :] if len(mark) > 1 else b""

    @cached_property
    def shown(self) -> frozenset[int]:
        """Tokens that are marks, which are shown even where they are control tokens."""
        marks = (self.calls.opening, self.calls.closing)
        spelled = [self.vocab.tokenize(mark, special=True) for mark in marks if mark]
        return frozenset(tokens[0] for tokens in spelled if len(tokens) == 1)
