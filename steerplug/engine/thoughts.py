"""Where a model thinks in a turn: between marks, found in the bytes of its tokens.

A turn begins before either thought or answer, and is then in one of them, or in a frame between
them: what some models write around each, such as `<|start|>assistant<|channel|>final<|message|>`.
Which token of a turn is thought is a function of these tokens alone, so a turn that comes back as
part of a chat is read as it was when it was generated.

White space around a thought is the marks', and so is that before the answer behind one. In an
answer another thought may begin, where its mark is a token of its own: a control token anywhere,
one that people may write as well at the beginning of a line.
"""

import codecs
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from steerplug.engine.overlap import overlap
from steerplug.engine.thought_marks import MARK, ThoughtMarks
from steerplug.engine.vocab import Vocab

_SPACE = b" \t\n\v\f\r"


class Place(Enum):
    """Where in a turn the next token stands."""

    START, THOUGHT, FRAME, ANSWER = range(4)


class Segment(NamedTuple):
    """Bytes that are certain now, of a thought or of the answer."""

    of_thought: bool
    data: bytes


class Thinking:
    """A turn as far as it has come.

    Args:
        marks: what stands around thoughts.
        vocab: the model's vocabulary.
        before: the tokens before the turn, which may have opened a thought.
        shown: another mark whose control tokens are read as text, that of tool calls.
    """

    def __init__(
        self, marks: ThoughtMarks, vocab: Vocab, before: Sequence[int] = (), shown: str = ""
    ) -> None:
        self.marks, self._vocab = marks, vocab
        self._opening = marks.opening.strip().encode()
        self._closing = marks.closing.strip().encode()
        texts = "".join((marks.opening, marks.closing, marks.lead, marks.head, marks.tail, shown))
        self._controls = {text.encode() for text in MARK.findall(texts) if text in vocab.controls}
        lead = [mark.encode() for mark in MARK.findall(marks.lead)]
        self._begin = lead[0] if lead else b""
        last = [MARK.findall(text)[-1:] for text in (marks.opening, marks.lead)]
        self._ends = [mark[0].encode() for mark in last if mark]
        self._again = self._marks_in_answer(lead)
        self._first = {mark[:1] for mark in self._again}
        self._opens_anywhere = self._is_control(self._opening)
        self.n_thought = 0
        """How many tokens it thought, marks of a token of their own included."""
        self._held, self._n_skipped = b"", 0
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_fresh = self._at_line = True
        self.place = _beginning(before, marks, vocab)

    def _marks_in_answer(self, lead: Sequence[bytes]) -> list[bytes]:
        """Return what ends an answer, or is none of it: what no text can be mistaken for."""
        tail = [mark.encode() for mark in MARK.findall(self.marks.tail)[:1]]
        own = [self._opening, self._closing] if not lead else lead[:1]
        return tail + [mark for mark in own if self._is_sure(mark)]

    def _is_sure(self, mark: bytes) -> bool:
        """Whether a mark is a token of its own, or begins with a control token."""
        return self._is_control(mark) or len(self._spelled(mark)) == 1

    def _is_control(self, mark: bytes) -> bool:
        return not self._vocab.piece(self._spelled(mark)[0])

    def _spelled(self, mark: bytes) -> list[int]:
        return self._vocab.tokenize(mark.decode(), special=True)

    @property
    def in_thought(self) -> bool:
        """Whether the next token belongs to a thought, or ends it."""
        return self.place is Place.THOUGHT

    @property
    def is_ahead(self) -> bool:
        """Whether the answer has not begun: a thought or what frames it comes next."""
        if self.place is Place.START:
            return self.marks.expected or self.marks.begins_in_frame
        return self.in_thought or (self.place is Place.FRAME and bool(self._begin))

    @property
    def is_whole(self) -> bool:
        """Whether no character is in the midst of its bytes."""
        return not self._characters.getstate()[0]

    @property
    def may_end_itself(self) -> bool:
        """Whether the thought is in the midst of what could be the mark that ends it."""
        return self.in_thought and overlap(self._held, self._closing) > 0

    def begin_telling(self) -> None:
        """Tell nothing of what was read until now: the prompt has it."""
        self.n_thought, self._n_skipped = 0, len(self._held)

    def read(self, token: int) -> list[Segment]:
        """Go on past a token; return what is certain now."""
        self.n_thought += self.in_thought
        data = self._seen(token)
        if self.place is Place.ANSWER and not (self._held or any(x in data for x in self._first)):
            self._note_line(data)
            return [Segment(False, data)] if data else []
        self._characters.decode(data)
        self._held += data
        segments: list[Segment] = []
        while self._step(segments):
            pass
        return segments

    def read_call(self, data: bytes, openings: Sequence[str]) -> bytes:
        """Go on past a token of a tool call; return its bytes with those held back before it.

        Args:
            data: its bytes.
            openings: marks that may have begun the call, before which a frame may stand.
        """
        held, in_frame = self._held[self._n_skipped :] + data, self.place is Place.FRAME
        self._go(Place.ANSWER, b"")
        begins = [held.rfind(mark.encode()) for mark in openings if in_frame]
        return held[max([0, *begins]) :]

    def finish(self) -> list[Segment]:
        """Return what was held back; nothing more will come."""
        held, self._held = self._held, b""
        if self.place is Place.FRAME:
            return []
        segments: list[Segment] = []
        self._say(segments, held.rstrip(_SPACE) if self.in_thought else held)
        return segments

    def _seen(self, token: int) -> bytes:
        text = self._vocab.piece(token)
        if text or not self._controls:
            return text
        control = self._vocab.piece(token, True)
        return control if control in self._controls else b""

    def _say(self, segments: list[Segment], data: bytes) -> None:
        n, self._n_skipped = self._n_skipped, max(self._n_skipped - len(data), 0)
        data = data[n:]
        for control in self._controls:
            data = data.replace(control, b"")
        if data:
            segments.append(Segment(self.in_thought, data))

    def _step(self, segments: list[Segment]) -> bool:
        """Take what can be told of what is held; return whether there may be more."""
        if self.place is Place.START:
            return self._start()
        if self.place is Place.THOUGHT:
            return self._thought(segments)
        return self._frame() if self.place is Place.FRAME else self._answer(segments)

    def _start(self) -> bool:
        text = self._held.lstrip(_SPACE)
        if text.startswith(self._opening):
            self._go(Place.THOUGHT, text[len(self._opening) :])
        elif self._opening.startswith(text):
            return False
        elif self.marks.begins_in_frame:
            self._is_fresh, self.place = False, Place.FRAME
        elif self._begin and self._begin.startswith(text[: len(self._begin)]):
            if len(text) < len(self._begin):
                return False
            self._go(Place.FRAME, text)
        else:
            self._go(Place.ANSWER, self._held)
        return True

    def _thought(self, segments: list[Segment]) -> bool:
        if self._is_fresh:
            self._held = self._held.lstrip(_SPACE)
            self._is_fresh = not self._held
        begin = self._held.find(self._closing)
        if begin >= 0:
            self._say(segments, self._held[:begin].rstrip(_SPACE))
            self._go(Place.FRAME, self._held[begin + len(self._closing) :])
            return True
        certain = self._held[: len(self._held) - overlap(self._held, self._closing)]
        self._emit(segments, len(certain.rstrip(_SPACE)))
        return False

    def _frame(self) -> bool:
        """Pass over a frame; `is_fresh` says that its own first mark has not come yet."""
        if self._is_fresh:
            text = self._held = self._held.lstrip(_SPACE)
            if not text or (self._begin != text and self._begin.startswith(text)):
                return False
            self._is_fresh = False
            if not self._begin or not text.startswith(self._begin):
                self._go(Place.ANSWER, text)
                return True
        ends = [(self._held.index(end), end) for end in self._ends if end in self._held]
        if not ends:
            return False
        begin, end = min(ends)
        frame, rest = self._held[: begin + len(end)], self._held[begin + len(end) :]
        self._go(Place.THOUGHT if frame.endswith(self._opening) else Place.ANSWER, rest)
        return True

    def _answer(self, segments: list[Segment]) -> bool:
        starts = [(self._held.index(mark), mark) for mark in self._again if mark in self._held]
        for begin, mark in sorted(starts):
            if mark == self._opening and not self._may_open(begin):
                continue
            self._emit(segments, begin)
            if mark == self._opening:
                self._go(Place.THOUGHT, self._held[len(mark) :])
            elif mark == self._closing and not self._begin:
                self._go(Place.FRAME, self._held[len(mark) :])
            else:
                self.place, self._is_fresh = Place.FRAME, False
            return True
        keep = max((overlap(self._held, mark) for mark in self._again), default=0)
        self._emit(segments, len(self._held) - keep)
        return False

    def _may_open(self, begin: int) -> bool:
        """Whether a thought may be opened here in an answer."""
        before = self._held[:begin].rstrip(b" \t")
        return self._opens_anywhere or before.endswith(b"\n") or (not before and self._at_line)

    def _emit(self, segments: list[Segment], n: int) -> None:
        """Say the first n bytes of what is held."""
        data, self._held = self._held[:n], self._held[n:]
        self._note_line(data)
        self._say(segments, data)

    def _note_line(self, data: bytes) -> None:
        if text := data.rstrip(b" \t"):
            self._at_line = text.endswith(b"\n")

    def _go(self, place: Place, held: bytes) -> None:
        self.place, self._held, self._n_skipped = place, held, 0
        self._is_fresh = self._at_line = True


def _beginning(before: Sequence[int], marks: ThoughtMarks, vocab: Vocab) -> Place:
    """Return where a turn begins behind these tokens; where thoughts are not told, its middle."""
    opening, closing, head = marks.opening.strip(), marks.closing.strip(), marks.head.strip()
    if not marks.told:
        text = vocab.text(list(before), special=True)
        return Place.THOUGHT if text.rfind(opening) > text.rfind(closing) else Place.START
    n = max(len(marks.opening), len(marks.head)) + 8
    end = vocab.text(list(before[-n:]), special=True).rstrip()
    if end.endswith(opening):
        return Place.THOUGHT
    return Place.ANSWER if head and end.endswith(head) else Place.START
