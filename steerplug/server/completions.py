"""`POST /v1/completions`: texts that go on, without a chat template."""

from fastapi import FastAPI, Request, Response

from steerplug.chat.tool import CallPiece
from steerplug.engine.engine import Piece
from steerplug.server.asking import Asked, ask_texts
from steerplug.server.choices import Choices, Chosen
from steerplug.server.echo import spelt
from steerplug.server.requests import CompletionBody
from steerplug.server.responses import completion_logprobs
from steerplug.server.state import ServerState
from steerplug.session.receipt import Reply


def add_to(app: FastAPI, serving: ServerState) -> None:
    """Add the endpoint."""

    @app.post("/v1/completions", response_model=None)
    async def complete(body: CompletionBody, request: Request) -> Response:
        """Return how texts go on, or stream it."""
        asked = await ask_texts(serving, request, body)
        return await CompletionAnswer(serving, request, body, asked).respond()


class CompletionAnswer(Choices):
    """How texts go on."""

    prefix, kinds = "cmpl", ("text_completion", "text_completion")
    _body: CompletionBody

    def __init__(
        self, serving: ServerState, request: Request, body: CompletionBody, asked: Asked
    ) -> None:
        vocab = asked.served.session.model.vocab
        said = [spelt(text, vocab) if body.echo else "" for text in asked.texts]
        self._echoed = [text for text in said for _ in range(body.n or 1)]
        self._said = [0] * len(self._echoed)
        super().__init__(serving, request, body, asked)

    def opening(self, i: int) -> Chosen | None:
        """Repeat the prompt if asked to; where it is scored, its pieces do."""
        return _choice(i, self._echoed[i]) if self._echoed[i] and self.is_plain else None

    @property
    def is_plain(self) -> bool:
        """Whether no probabilities are asked for."""
        return self._body.logprobs is None

    def text(self, i: int, text: str, *, in_thought: bool = False) -> Chosen:  # noqa: ARG002
        """Return more text, in which thoughts are not told apart."""
        return _choice(i, text)

    def part(self, i: int, piece: Piece | CallPiece) -> Chosen:
        """Return more text, and how likely it was."""
        assert isinstance(piece, Piece)  # a text that goes on calls nothing
        said = self._likely(self.text(i, piece.text), [piece], self._said[i])
        self._said[i] += len(piece.text)
        return said

    def end(self, i: int, reply: Reply) -> Chosen:
        """Say why it ended."""
        return _choice(i, "", reply.finish_reason)

    def choice(self, i: int, reply: Reply, pieces: list[Piece]) -> Chosen:
        """Return the text."""
        said = _choice(i, self._echoed[i] + reply.text, reply.finish_reason)
        return self._likely(said, pieces, 0)

    def _likely(self, said: Chosen, pieces: list[Piece], begin: int) -> Chosen:
        if self._body.logprobs is not None:
            said["logprobs"] = completion_logprobs(pieces, self.vocab, begin)
        return said


def _choice(i: int, text: str, finish_reason: str | None = None) -> Chosen:
    return {"index": i, "text": text, "logprobs": None, "finish_reason": finish_reason}
