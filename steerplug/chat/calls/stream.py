"""Reading calls from a reply while it is generated.

Text is handed on as soon as it cannot be the beginning of a call; of a call, its name when it is
whole, and its arguments as they come. Calls are generated under a grammar, so what stands around
names and arguments is known and passed over, but for an identifier; a call counts once its
arguments are whole. A call that repeats an earlier one is none, and ends the reply: it is held back
for as long as it may be one.
"""

import re
import secrets
import string
from collections.abc import Generator, Iterator, Sequence
from itertools import chain

from steerplug.chat.calls.answers import Way
from steerplug.chat.calls.form import Form, pattern, until_arguments
from steerplug.chat.calls.kinds import of_object
from steerplug.chat.calls.members import MembersReader
from steerplug.chat.tool import CallPiece, Tool, ToolCall
from steerplug.engine.openings import find_opening, n_held

_ID_LETTERS, _ID_LENGTH = string.ascii_letters + string.digits, 9  # as Mistral's templates demand


class CallStream:
    """Tells the text of a reply from its calls.

    Args:
        ways: in which the model may write calls.
        tools: what it may call.
        only_calls: whether the reply holds no text, so that half a mark is none.
        begun: what the reply goes on with: its end may be the beginning of a mark.

    `unfinished` is the name of the call that has begun and is not whole yet, if there is one.
    """

    def __init__(
        self, ways: Sequence[Way], tools: Sequence[Tool] = (), *, only_calls: bool = False,
        begun: str = "",
    ) -> None:  # fmt: skip
        self._schemas = {tool.name: of_object(tool.parameters) for tool in tools}
        self._forms, self._openings = [form for form, _ in ways], [opening for _, opening in ways]
        self._only_calls = only_calls
        self._held = begun[len(begun) - n_held(self._openings, begun, True) :]
        self._n_begun = len(self._held)
        self._fresh = len(self._held) == len(begun)
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
        if self._reading is None and (text := self._certain(in_call)):
            yield text
        if self._reading is not None:
            for piece in self._reading:
                if piece is None:
                    return
                yield piece

    def _certain(self, in_call: bool) -> str:
        """Let go of text that is no call, and begin to read one where it begins."""
        opened = find_opening(self._openings, self._held, self._fresh) if in_call else None
        if opened:
            n, self._reading = opened.begin, self._read(self._forms[opened.number])
        else:
            n = len(self._held) - n_held(self._openings, self._held, self._fresh)
        text, self._held = self._held[:n], self._held[n:]
        self._fresh &= not text
        return self._new(text)

    def finish(self) -> str:
        """Return the text that was held back; nothing more will come."""
        return self._new(self._held) if self._reading is None and not self._only_calls else ""

    def _new(self, text: str) -> str:
        """Return what of a text was not there when the reply began."""
        n = min(self._n_begun, len(text))
        self._n_begun -= n
        return text[n:]

    def _read(self, form: Form) -> Iterator[CallPiece | None]:
        """Yield the parts of the calls; None where the next text is needed."""
        before = form.opening + form.head
        while True:
            ids = yield from self._pass(pattern(before))
            name, more = yield from self._name(until_arguments(form))
            self.unfinished = name
            call_id = self._call_id([*ids, *more])
            is_new = yield from self._call(call_id, name, self._arguments(form, name))
            self.unfinished = None
            while not is_new:
                yield None
            yield from self._pass(pattern(form.tail))
            before = form.again

    def _call(
        self, call_id: str, name: str, parts: Iterator[str | None]
    ) -> Generator[CallPiece | None, None, bool]:
        """Yield the parts of a call, once it is none that was made; return whether it is not."""
        index, arguments = len(self._found), ""
        earlier = [call.arguments for call in self._found if call.name == name]
        held = [CallPiece(index, "", call_id, name)]
        for part in chain([""], parts):
            if part is None:
                yield None
                continue
            arguments += part
            held += [CallPiece(index, part)] if part else []
            if not any(each.startswith(arguments) for each in earlier):
                yield from held
                held.clear()
        if arguments in earlier:
            return False
        yield from held
        self._found.append(ToolCall(call_id, name, arguments))
        return True

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

    def _arguments(self, form: Form, name: str) -> Iterator[str | None]:
        """Yield the parts of a call's arguments; None where the next text is needed."""
        reader: _JsonReader | MembersReader = _JsonReader()
        if form.members:
            schema = self._schemas.get(name, {})
            reader = MembersReader(form.members, schema, pattern(form.tail))
        while True:
            part, self._held = reader.take(self._held)
            if part:
                yield part
            if reader.reached:
                return
            yield None

    def _call_id(self, written: Sequence[str]) -> str:
        """Return the identifier that the model wrote, or a new one."""
        taken = [call.id for call in self._found]
        if written and written[0] not in taken:
            return written[0]
        return "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_LENGTH))


class _JsonReader:
    """Finds where a JSON object ends, in the parts it comes in; `reached` tells if it did."""

    def __init__(self) -> None:
        self.reached = False
        self._depth, self._in_string, self._escaped = 0, False, False

    def take(self, text: str) -> tuple[str, str]:
        """Return what of a text belongs to the object, and what does not."""
        text = text if self._depth else text.lstrip()
        n = self._find(text)
        return text[:n], text[n:]

    def _find(self, part: str) -> int:
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
