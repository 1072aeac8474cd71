"""One reply in the making: pieces of an engine become events, and the reply that they end in."""

from collections.abc import Iterator

from steerplug.chat.calls.stream import CallStream
from steerplug.chat.promise import Promise
from steerplug.chat.tool import CallPiece
from steerplug.engine.engine import Piece, Progress, Request
from steerplug.errors import EngineError, RequestError
from steerplug.session.receipt import Receipt, Reply, Scored, Usage
from steerplug.session.resolve import Resolved
from steerplug.session.settings import Text

Event = Piece | CallPiece | Reply
"""What a reply is streamed as: pieces of text, parts of tool calls, and the whole at the end."""


class Task:
    """What was asked for, and what has come so far."""

    def __init__(
        self, request: Request, steered: Resolved, calls: CallStream | None, promise: Promise,
        n_added: int = 0,
    ) -> None:  # fmt: skip
        self.request, self.steered, self._promise = request, steered, promise
        self._calls, self._n_added = calls, n_added
        self.progress = Progress()
        self._text: list[str] = []
        self._thoughts: list[str] = []

    def take(self, piece: Piece) -> Iterator[Piece | CallPiece]:
        """Note a piece, and hand on its text and parts of calls."""
        if piece.in_thought:
            self._thoughts.append(piece.text)
            yield piece
            return
        if self._calls is None:
            self._text.append(piece.text)
            yield piece
            return
        parts = list(self._calls.feed(piece.text, piece.in_call))
        text = "".join(part for part in parts if isinstance(part, str))
        if text or not piece.in_call:
            self._text.append(text)
            yield piece._replace(text=text)
        for part in parts:
            if isinstance(part, CallPiece):
                yield part

    def finish(self) -> Iterator[Piece]:
        """Hand on the text that could have been the beginning of a call."""
        if self._calls and (text := self._calls.finish()):
            self._text.append(text)
            yield Piece(text, None, 0.0)

    def reply(self) -> Reply:
        """Return the finished reply.

        Raises:
            EngineError: steering was asked for and did not happen.
            RequestError: it ended in the midst of a call, or breaks what was asked for.
        """
        mix, progress = self.request.mix, self.progress
        if mix and not (progress.n_steered or progress.left_out):
            raise EngineError(
                "steering was asked for and acted on no token; run `steerplug doctor -m MODEL`."
            )
        if self._calls and self._calls.unfinished is not None:
            raise RequestError(
                f"the call of `{self._calls.unfinished}` is not whole after "
                f"{progress.n_generated} tokens, where the room for the reply ends; raise "
                "max_tokens, or open the model with a larger n_ctx."
            )
        receipt = Receipt(
            self.steered.ingredients,
            mix.digest if mix else "",
            progress.n_steered,
            progress.moved / progress.n_moved if progress.n_moved else 0.0,
            self.steered.carrier,
            self._n_added,
        )
        calls, reason = self._calls.calls if self._calls else (), progress.finish_reason or "stop"
        if calls and not (reason == "length" and progress.cut_short):
            reason = "tool_calls"
        text = "".join(self._text)
        self._promise.check(text, calls)
        return Reply(
            text,
            reason,
            Usage(
                progress.n_prompt, progress.n_generated, progress.n_cached, progress.n_thought
            ),
            receipt,
            progress.seed or 0,
            progress.seconds,
            progress.seconds_to_first,
            calls,
            "".join(self._thoughts),
        )

    def scored(self, text: Text, reply: Reply) -> Scored:
        """Return what was found of the tokens of a text; a BOS that was added is none of them."""
        prompt = self.request.prompt
        n_added = int(isinstance(text, str) and prompt.has_bos)
        scores = self.progress.scores[n_added + 1 :]
        return Scored(prompt.tokens[n_added:], (None, *scores), reply)
