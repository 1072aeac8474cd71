"""One reply in the making: its tokens, what steers each, and what its reader is told of them.

A reply knows nothing of the others beside it; which of its tokens are decoded when is the business
of `scheduler`, how the next one is drawn that of `drawing`.
"""

import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from steerplug.engine.call_marks import Turn
from steerplug.engine.context import Context
from steerplug.engine.drawing import Drawing, Drawn
from steerplug.engine.likelihood import PromptScores
from steerplug.engine.prefix_cache import Held, PrefixCache
from steerplug.engine.reply_text import ReplyText
from steerplug.engine.request import Piece, Progress, Request
from steerplug.engine.rows import Row
from steerplug.engine.scope import Begin, plan
from steerplug.engine.thought_marks import ThoughtMarks
from steerplug.engine.thoughts import Segment, Thinking
from steerplug.engine.vocab import Vocab
from steerplug.errors import ReplyTimeout, RequestError

Item = Piece | BaseException | None
Deliver = Callable[[Item], None]
"""Takes each piece of a reply, then None, or the error that ended it; called by the worker."""


class Followed(NamedTuple):
    """Another reply that is about to decode the first n tokens of this one."""

    reply: "Generation"
    n: int


class Generation:
    """A request on its way.

    Args:
        request: what was asked for.
        progress: kept up to date.
        deliver: told every piece.
        cache: names the cells.
        vocab: the model's vocabulary.
        n_ctx: how many tokens prompt and reply may have together.
        whole: whether it is read as a whole, not token by token.

    Raises:
        RequestError: its grammar cannot be followed, or it must fit and lacks the room.
        ContextOverflow: it would have the room if the prompt were shorter.
    """

    def __init__(
        self,
        request: Request,
        progress: Progress,
        deliver: Deliver,
        cache: PrefixCache,
        vocab: Vocab,
        n_ctx: int,
        *,
        whole: bool = False,
    ) -> None:
        self.progress, self.deliver, self.cancelled = progress, deliver, False
        self.held: Held | None = None
        self.follows: Followed | None = None
        self.tokens = list(request.prompt.tokens)
        self.timeout, self._partition = request.timeout, request.partition
        self._begin = time.perf_counter()
        self._cache, self._vocab, self._tells_end = cache, vocab, request.tells_end
        self.tells_moved = request.tells_moved
        self._counted, self._scores = 0, None
        if request.scored:
            self._scores = PromptScores(self.tokens, request.logprobs or 0, progress.scores)
        turn, self._thinking = self._lay_out(request)
        self._text = ReplyText(request.stop, self._thinking)
        self._drawing = Drawing(request, self.tokens, turn, self._thinking, vocab, n_ctx)
        is_alike = not (self._leaves_thoughts and self._generated)
        self.runs_on = whole and self._drawing.is_free and not request.stop and is_alike
        """Whether the next tokens can be drawn before anything is made of the last ones."""
        progress.n_prompt, progress.seed = len(self.tokens), self._drawing.seed

    def _lay_out(self, request: Request) -> tuple[Turn | None, Thinking | None]:
        """Decide what steers each token; return how far calls and thoughts have come."""
        turn = Turn(request.calls, self._vocab) if request.calls is not None else None
        self._leaves_calls = request.calls is not None and not request.calls.steered
        marks = request.prompt.thoughts
        begin = self._begin_with(marks, turn) if marks is not None else None
        self._leaves_thoughts = begin is not None and "thinking" in request.unsteered
        laid = plan(
            request.mix, request.prompt, begin, turn if self._leaves_calls else None,
            leaves_thoughts=self._leaves_thoughts,
        )  # fmt: skip
        self._steering, self._generated = list(laid.prompt), laid.generated
        if "constrained" in request.unsteered and request.grammar is not None:
            self.progress.left_out = self._generated is not None
            boundary = request.prompt.boundary
            self._steering[boundary:] = [None] * (len(self._steering) - boundary)
            self._generated = None
        self.keys: array[int] = self._cache.keys(self.tokens, self._steering, self._partition)
        first = len(self.tokens) - request.prompt.begun
        thinking = begin(self.tokens[:first]) if begin else None
        return self._begun(turn, thinking, self.tokens[first:]), thinking

    def _begin_with(self, marks: ThoughtMarks, turn: Turn | None) -> Begin:
        ways = turn.calls.ways if turn is not None else ()
        shown = "".join(mark for way in ways for mark in way.opening.marks)
        return partial(Thinking, marks, self._vocab, shown=shown)

    def _begun(
        self, turn: Turn | None, thinking: Thinking | None, tokens: list[int]
    ) -> Turn | None:
        """Return the turn as far as the prompt has it already.

        Raises:
            RequestError: it ends in a call.
        """
        for token in tokens:
            if turn is not None:
                turn, _ = turn.passing(token, thinking)
            elif thinking is not None:
                thinking.read(token)
        if thinking is not None:
            thinking.begin_telling()
        if turn is not None and turn.in_call:
            raise RequestError(
                "the last message ends in the midst of a call, with which no reply goes on; leave "
                "the call out."
            )
        return turn

    @property
    def n_missing(self) -> int:
        """How many tokens must be decoded before the next one can be drawn."""
        return len(self.tokens) - (len(self.held) if self.held is not None else 0)

    @property
    def reusable(self) -> "array[int]":
        """The keys of the cells that it may take from the cache."""
        n = len(self.keys) - 1
        return self.keys[: n if self._scores is None else min(n, self._scores.n_read)]

    @property
    def is_scored(self) -> bool:
        """Whether logits of its prompt are still to be read."""
        return self._scores is not None and self._scores.wants(self._scores.n_read)

    @property
    def n_left(self) -> int:
        """How many tokens the reply may still have."""
        return self._drawing.n_left

    @property
    def is_overdue(self) -> bool:
        """Whether it took longer than its request allows."""
        return self.timeout is not None and time.perf_counter() - self._begin > self.timeout

    def overdue(self) -> ReplyTimeout:
        """Return the error of a reply that is overdue."""
        return ReplyTimeout(
            f"the reply took longer than {self.timeout:g} seconds; raise timeout, or lower "
            "max_tokens."
        )

    def take(self, held: Held) -> None:
        """Go on with a sequence that holds some of its cells."""
        self.held = held
        if self.progress.n_generated == 0:
            self.progress.n_cached = len(held)

    def rows(self, n: int) -> list[Row]:
        """Return the next n tokens to decode; the last of all and scored ones ask for logits."""
        assert self.held is not None
        begin, last = len(self.held), len(self.tokens) - 1
        wants = self._scores.wants if self._scores is not None else (lambda _: False)
        return [Row(self.tokens[i], i, i == last or wants(i), self._steering[i], self.held.number)
                for i in range(begin, begin + n)]

    def read(self, context: Context, row: int, n: int) -> None:
        """Read what n rows that were decoded say of the prompt; the first is batch row `row`."""
        if self._scores is not None:
            assert self.held is not None
            self._scores.read(context, row, len(self.held), n)

    def account(self, moved: float, n_moved: int) -> None:
        """Account for what steering did to rows that were decoded."""
        self.progress.moved += moved
        self.progress.n_moved += n_moved

    def count(self) -> None:
        """Count steered tokens that were decoded, each of them once."""
        if self.n_missing == 0:
            for steering in self._steering[self._counted :]:
                self.progress.n_steered += steering is not None
            self._counted = len(self._steering)

    @property
    def is_steered(self) -> bool:
        """Whether the token that was decoded last is to be steered."""
        assert self.held is not None
        return self._steering[len(self.held) - 1] is not None

    def row_on(self, token: int, n: int) -> Row:
        """Return the row of a token that was drawn; of this reply, n before it are not told yet."""
        assert self.held is not None
        return Row(token, len(self.tokens) + n, True, self._generated, self.held.number)

    def stops_at(self, token: int) -> bool:
        """Whether the batch has to look at the reply before it goes on past this token."""
        return self.cancelled or self.is_overdue or self._vocab.ends_generation(token)

    def tell(self, drawn: Drawn, moved: float) -> bool:
        """Make of a drawn token what the reader sees of it; return whether the reply ended.

        Raises:
            EngineError: no token can follow.
        """
        (token, logprobs), progress = drawn, self.progress
        progress.seconds = time.perf_counter() - self._begin
        if token is None:
            progress.finish_reason = "length"
        elif self._vocab.ends_generation(token):
            progress.finish_reason = self._why_complete()
            if self._tells_end:
                self.deliver(Piece("", token, moved, logprobs))
        else:
            is_mark, (in_call, segments) = self._drawing.is_mark(token), self._append(token)
            data = self._vocab.piece(token, is_mark or in_call)
            pieces = self._text.pieces(data, segments, in_call=in_call)
            progress.finish_reason = self._why_it_ends()
            for i, (text, in_thought) in enumerate(pieces):
                piece = Piece(text, None, 0.0) if i else Piece(text, token, moved, logprobs)
                self.deliver(piece._replace(in_call=in_call, in_thought=in_thought))
        if progress.finish_reason is None:
            self._drawing.look_ahead()
            return False
        progress.cut_short = self._drawing.cut_short
        for text, in_thought in self._text.finish():
            self.deliver(Piece(text, None, 0.0, in_thought=in_thought))
        return True

    def draw(self, context: Context, row: int) -> Drawn:
        """Draw the next token from the logits of batch row `row`; see `Drawing.draw`."""
        drawn = self._drawing.draw(context, row)
        if not self.progress.seconds_to_first:  # told later, where more are decoded first
            self.progress.seconds_to_first = time.perf_counter() - self._begin
        return drawn

    def _append(self, token: int) -> tuple[bool, list[Segment]]:
        """Add a drawn token, to be decoded next; return what `Drawing.accept` does."""
        thinking, progress = self._thinking, self.progress
        is_of_call, segments = self._drawing.accept(token)
        is_thought = thinking is not None and thinking.is_ahead and self._leaves_thoughts
        is_left_out = is_thought or (self._drawing.in_call and self._leaves_calls)
        steering = None if is_left_out else self._generated
        progress.left_out |= is_left_out and self._generated is not None
        progress.n_thought = thinking.n_thought if thinking is not None else 0
        self.tokens.append(token)
        self._steering.append(steering)
        self.keys.append(self._cache.key(token, steering, self._partition))
        progress.n_generated += 1
        return is_of_call, segments

    def _why_it_ends(self) -> str | None:
        if self._text.is_stopped:
            return "stop"
        if self._drawing.is_complete:
            return self._why_complete()
        if self._drawing.repeats:
            return "stop"
        return "length" if self.n_left <= 0 else None

    def _why_complete(self) -> str:
        return "length" if self._drawing.was_forced else "stop"

    def end(self, error: BaseException | None = None) -> None:
        """Tell who waits that nothing more will come, and why."""
        self._drawing.close()
        self.deliver(error)

