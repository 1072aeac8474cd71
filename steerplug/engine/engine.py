"""The generation loop: one request in, tokens out, steered as the request says.

Steering belongs to a request, never to the engine; which KV cells it may reuse is the business of
`cells`.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steerplug.engine.cells import Cells
from steerplug.engine.constraint import Constraint
from steerplug.engine.context import Context, Row
from steerplug.engine.model import Model
from steerplug.engine.sampling import Sampler, Sampling
from steerplug.engine.scope import Prompt, plan
from steerplug.engine.text import TextStream
from steerplug.engine.vocab import Vocab
from steerplug.errors import ContextOverflow, RequestError
from steerplug.steering.value import NOTHING, Mix


@dataclass(frozen=True)
class Request:
    """What to generate.

    Args:
        prompt: the tokens to continue.
        mix: how to steer; `NOTHING` leaves the model as it is.
        sampling: how to draw tokens.
        stop: strings that end the reply.
        max_tokens: most tokens to generate; None: as many as the context holds.
        schema: a JSON Schema that the reply must follow.
    """

    prompt: Prompt
    mix: Mix = NOTHING
    sampling: Sampling = field(default_factory=Sampling)
    stop: Sequence[str] = ()
    max_tokens: int | None = None
    schema: Mapping[str, Any] | None = None


@dataclass
class Progress:
    """What is known of a running reply; `finish_reason` is set when it has ended.

    `n_steered` counts steered tokens (prompt and reply), from the cache or not; `moved` sums
    |change of h| / |h| over the steered (token, block) pairs that were decoded, of which there are
    `n_moved`; `seconds_to_first` is the time from the request to its first token.
    """

    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    n_steered: int = 0
    moved: float = 0.0
    n_moved: int = 0
    seed: int | None = None
    seconds: float = 0.0
    seconds_to_first: float = 0.0
    finish_reason: str | None = None


@dataclass(frozen=True)
class Piece:
    """One generated token: its text as far as it is certain, and how strongly it was steered.

    `token` is None where only text that had been held back is handed out.
    `moved` is the mean of |change of h| / |h| over the steered blocks of the token whose logits
    drew this one; 0 where nothing was steered.
    """

    text: str
    token: int | None
    moved: float


class Engine:
    """A model with a context; safe to call from several threads and with several replies open.

    There is one sequence: a reply that finds the context taken by another in between decodes what
    it has lost again, so open replies never wait for one another to be read to the end.
    """

    def __init__(self, model: Model, *, n_ctx: int = 4096, n_threads: int | None = None) -> None:
        self.model = model
        self.context = Context(model, n_ctx=min(n_ctx, model.n_ctx_train), n_threads=n_threads)
        self._lock = threading.Lock()
        self._cells = Cells(self.context)
        self._latest: _Reply | None = None

    def generate(self, request: Request, progress: Progress | None = None) -> Iterator[Piece]:
        """Yield the reply token by token, and keep `progress` up to date.

        Raises:
            ContextOverflow: the prompt leaves no room for a reply token.
            RequestError: the prompt is empty, or a limit makes no sense.
            EngineError: inference failed, or steering did not happen.
        """
        self.check(request)
        reply = _Reply(request, progress or Progress(), self.model.vocab)
        budget = self.context.n_ctx - len(request.prompt.tokens)
        budget = min(request.max_tokens or budget, budget)
        text, progress = TextStream(request.stop), reply.progress
        begin = time.perf_counter()
        try:
            while progress.finish_reason is None:
                with self._lock:
                    token, moved = self._next_token(reply)
                progress.seconds = time.perf_counter() - begin
                progress.seconds_to_first = progress.seconds_to_first or progress.seconds
                if self.model.vocab.ends_generation(token):
                    progress.finish_reason = "stop"
                    break
                reply.append(token)
                shown = text.feed(self.model.vocab.piece(token))
                if text.stopped_by is not None:
                    progress.finish_reason = "stop"
                elif progress.n_generated >= budget:
                    progress.finish_reason = "length"
                yield Piece(shown, token, moved)
            if rest := text.finish():
                yield Piece(rest, None, 0.0)
        finally:
            reply.sampler.close()

    def check(self, request: Request) -> None:
        """Refuse a request that cannot be served; see `generate` for the errors."""
        n, n_ctx = len(request.prompt.tokens), self.context.n_ctx
        if n == 0:
            raise RequestError("the prompt is empty; send at least one message or word.")
        if request.max_tokens is not None and request.max_tokens < 1:
            raise RequestError(f"max_tokens is {request.max_tokens}; give at least 1.")
        if any(not stop for stop in request.stop):
            raise RequestError("a stop string is empty; leave it out.")
        if n >= n_ctx:
            raise ContextOverflow(
                f"the prompt has {n} tokens and the context holds {n_ctx}, with room for a reply; "
                "shorten the prompt or open the model with a larger n_ctx."
            )

    def _next_token(self, reply: "_Reply") -> tuple[int, float]:
        """Decode what the cache lacks of a reply; draw its next token and say how it was moved."""
        same = len(self._cells)
        if self._latest is not reply:
            self._latest = None
            same = self._cells.reuse(reply.rows(0)[:-1])
        if reply.progress.n_generated == 0:
            reply.progress.n_cached = same
        for batch in self._cells.decode(rows := reply.rows(same)):
            moved = self._count_moved(rows[batch.end - 1], reply.progress)
        self._latest = reply
        reply.count_steered()
        return reply.draw(self.context, batch.end - batch.begin - 1), moved

    def _count_moved(self, last: Row, progress: Progress) -> float:
        """Account for a decoded batch that ends with `last`; return how far that was moved."""
        if not self.context.hook.applied:
            return 0.0
        moved = self.context.hook.moved
        progress.moved += float(moved.sum())
        progress.n_moved += self.context.hook.applied
        return float(moved[-1]) / len(last.applied.layers) if last.applied else 0.0

    def close(self) -> None:
        """Free the context; the model stays."""
        with self._lock:
            self.context.close()


class _Reply:
    """A reply in the making: its tokens so far, what steers each, and how the next is drawn."""

    def __init__(self, request: Request, progress: Progress, vocab: Vocab) -> None:
        laid = plan(request.mix, request.prompt)
        sampling = request.sampling.seeded()
        self.tokens = list(request.prompt.tokens)
        self.steering = list(laid.prompt)
        self.sampler = Sampler(sampling, vocab.n_tokens)
        self.progress = progress
        schema = request.schema
        self._constraint = None if schema is None else Constraint(vocab, schema)
        self._generated = laid.generated
        self._counted = 0
        progress.n_prompt, progress.seed = len(self.tokens), sampling.seed

    def count_steered(self) -> None:
        """Count each steered token once, whether it was decoded, cached, or decoded again."""
        self.progress.n_steered += sum(a is not None for a in self.steering[self._counted :])
        self._counted = len(self.steering)

    def draw(self, context: Context, row: int) -> int:
        """Draw the next token from the logits of batch row `row`."""
        if self._constraint is None:
            return self.sampler.draw(context, row)
        self._constraint.restrict(context.logits_in_place(row))
        token = self.sampler.draw(context, row)
        self._constraint.accept(token)
        return token

    def rows(self, start: int) -> list[Row]:
        """Return the tokens from `start` on, the last one asking for logits."""
        last = len(self.tokens) - 1
        return [Row(self.tokens[i], i, i == last, self.steering[i]) for i in range(start, last + 1)]

    def append(self, token: int) -> None:
        """Add a drawn token, to be decoded next."""
        self.tokens.append(token)
        self.steering.append(self._generated)
        self.progress.n_generated += 1
