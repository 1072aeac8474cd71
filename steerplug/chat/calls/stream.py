"""Reading calls from a reply while it is generated.

Text is handed on as soon as it cannot be the beginning of a call; of a call, its name when it is
whole, and its arguments as they come. Calls are generated under a grammar, so what stands around
names and arguments is known and passed over, but for an identifier; a call counts once its
arguments are whole.
"""

import re
import secrets
import string
from collections.abc import Generator, Iterator, Sequence
from itertools import count

from steerplug.chat.calls.form import Form, pattern, until_arguments
from steerplug.chat.tool import CallPiece, ToolCall
from steerplug.engine.detokenizer import overlap

_ID_LETTERS, _ID_LENGTH = string.ascii_letters + string.digits, 9  # as Mistral's templates demand


class CallStream:
    """Tells the text of a reply from its calls.

    Args:
        form: how the model writes calls.
        only_calls: whether the reply holds no text, so that half a mark is none.
        begun: what the reply goes on with: its end may be the beginning of a mark.

    `unfinished` is the name of the call that has begun and is not whole yet, if there is one.
    """

    def __init__(self, form: Form, *, only_calls: bool = False, begun: str = "") -> None:
        self._form, self._only_calls = form, only_calls
        self._held = begun[len(begun) - overlap(begun, form.opening) :]
        self._n_begun = len(self._held)
        self.unfinished: str | None = None
        self._found: list[ToolCall] = []
        self._reading: Iterator[CallPiece | None] | None = None

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that are whole."""
        return tuple(self._found)

    def feed(self, text: str, in_call: bool) -> Iterator[str | CallPiece]:
        """Take the next text of a reply; yield what is certain now.

        Args:
            text: the text.
            in_call: whether it belongs to a call, the end of an opening mark included.
        """
        self._held += text
        if self._reading is None:
            opening = self._form.opening
            if in_call and opening in self._held:
                text, _, self._held = self._held.partition(opening)
                self._reading = self._read()
            else:
                certain = len(self._held) - overlap(self._held, opening)
                text, self._held = self._held[:certain], self._held[certain:]
            if text := self._new(text):
                yield text
        if self._reading is not None:
            for piece in self._reading:
                if piece is None:
                    return
                yield piece

    def finish(self) -> str:
        """Return the text that was held back; nothing more will come."""
        return self._new(self._held) if self._reading is None and not self._only_calls else ""

    def _new(self, text: str) -> str:
        """Return what of a text was not there when the reply began."""
        n = min(self._n_begun, len(text))
        self._n_begun -= n
        return text[n:]

    def _read(self) -> Iterator[CallPiece | None]:
        """Yield the parts of the calls; None where the next text is needed."""
        form, before = self._form, self._form.head
        for index in count():
            ids = yield from self._pass(pattern(before))
            name, more = yield from self._name(until_arguments(form))
            self.unfinished = name
            call_id = self._call_id([*ids, *more])
            yield CallPiece(index, "", call_id, name)
            arguments = yield from self._arguments(index)
            self._found.append(ToolCall(call_id, name, arguments))
            self.unfinished = None
            yield from self._pass(pattern(form.tail))
            before = form.again

    def _pass(self, known: str) -> Generator[None, None, Sequence[str]]:
        """Pass over a text that is known; return the identifiers in it."""
        while not (passed := re.match(known, self._held)):
            yield None
        self._held = self._held[passed.end() :]
        return passed.groups()

    def _name(self, end: str) -> Generator[None, None, tuple[str, Sequence[str]]]:
        """Read the name of a call; return it, and the identifiers in what ends it."""
        while not (ended := re.search(end, self._held)):
            yield None
        name, self._held = self._held[: ended.start()], self._held[ended.end() :]
        return name, ended.groups()

    def _arguments(self, index: int) -> Generator[CallPiece | None, None, str]:
        """Yield the parts of a call's arguments; return them all."""
        arguments, end = "", _JsonEnd()
        while True:
            n = end.find(self._held)
            part, self._held = self._held[:n], self._held[n:]
            arguments += part
            if part:
                yield CallPiece(index, part)
            if end.reached:
                return arguments
            yield None

    def _call_id(self, written: Sequence[str]) -> str:
        """Return the identifier that the model wrote, or a new one."""
        taken = [call.id for call in self._found]
        if written and written[0] not in taken:
            return written[0]
        return "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))


class _JsonEnd:
    """Finds where a JSON object ends, in the parts it comes in."""

    def __init__(self) -> None:
        self.reached = False
        self._depth, self._in_string, self._escaped = 0, False, False

    def find(self, part: str) -> int:
        """Return how much of the next part belongs to the object; `found` tells if it ended."""
        for i, letter in enumerate(part):
            if self._in_string:
                self._in_string = self._escaped or letter != '"'
                self._escaped = letter == "\\" and not self._escaped
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.reached = True
                    return i + 1
        return len(part)
