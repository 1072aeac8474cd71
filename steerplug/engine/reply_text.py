"""What the reader of a reply is told of its tokens: the answer's text, and that of thoughts apart.

Stop strings end the answer: a thought may hold them.
"""

from collections.abc import Iterable, Iterator, Sequence

from steerplug.engine.detokenizer import Detokenizer
from steerplug.engine.thoughts import Place, Segment, Thinking


class ReplyText:
    """The text of one reply.

    Args:
        stop: strings that end it.
        thinking: how far the reply has come, read by who draws it; None: it is an answer, all of
            it.
    """

    def __init__(self, stop: Sequence[str], thinking: Thinking | None) -> None:
        self._answer, self._thought = Detokenizer(stop), Detokenizer()
        self._thinking = thinking if thinking is not None and thinking.marks.told else None

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string ended it."""
        return self._answer.stopped_by is not None

    def pieces(
        self, data: bytes, segments: Iterable[Segment], *, in_call: bool
    ) -> list[tuple[str, bool]]:
        """Return what one token tells: texts, each with whether it is a thought's.

        Args:
            data: the token's bytes, as they are shown.
            segments: what was found to be certain at this token, of which kind.
            in_call: whether it is part of a tool call, which no stop string ends.
        """
        if self._thinking is None:
            return [(self._answer.feed(data, stops=not in_call), False)]
        told = [(self._text(part, stops=not in_call), part.of_thought) for part in segments]
        is_apart = self._thinking.is_ahead or self._thinking.place is Place.FRAME
        return told or [("", is_apart and not in_call)]

    def finish(self) -> Iterator[tuple[str, bool]]:
        """Yield what was held back; nothing more will come."""
        if self._thinking is not None and not self.is_stopped:
            for part in self._thinking.finish():
                yield self._text(part, stops=True), part.of_thought
        if rest := self._answer.finish():
            yield rest, False

    def _text(self, part: Segment, *, stops: bool) -> str:
        if part.of_thought:
            return self._thought.feed(part.data)
        return self._answer.feed(part.data, stops=stops)
