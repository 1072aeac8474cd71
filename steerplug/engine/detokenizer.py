"""Bytes of tokens to text that can be shown: whole characters only, and nothing past a stop string.

Tokens may end inside a UTF-8 character and stop strings may span tokens, so what could still become
either is held back until the next token decides. A text that ends inside a character ends before
it; bytes that no character could begin with or go on with are shown as a replacement.
"""

import codecs
from collections.abc import Sequence

from steerplug.engine.overlap import overlap


class Detokenizer:
    """Turns the bytes of successive tokens into text.

    Args:
        stop: strings that end the text; they are not part of it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._bytes, self._held = b"", ""
        self.stopped_by: str | None = None

    def feed(self, data: bytes, *, stops: bool = True) -> str:
        """Take the bytes of one token; return the text that is now certain.

        Args:
            data: the bytes.
            stops: whether stop strings count; without, nothing is held back for them.
        """
        return self._release(self._decode(data), stops)

    def finish(self) -> str:
        """Return what was held back but for half a character; nothing more will come."""
        text, self._held = self._held, ""
        return text

    def _decode(self, data: bytes) -> str:
        data = self._bytes + data
        text, n = codecs.utf_8_decode(data, "replace", False)
        self._bytes = data[n:]
        return text

    def _release(self, new: str, stops: bool) -> str:
        if self.stopped_by is not None:
            return ""
        text = self._held + new
        if not (stops and self._stop):
            self._held = ""
            return text
        matches = [(text.index(stop) + len(stop), text.index(stop), stop)
                   for stop in self._stop if stop in text]
        if matches:  # the first to be complete, as if the text had come character by character
            _, begin, self.stopped_by = min(matches)
            self._held = ""
            return text[:begin]
        keep = max((overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]
