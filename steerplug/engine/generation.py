"""One reply in the making: its tokens, what steers each, and how logits become the next piece.

A reply knows nothing of the others beside it; which of its tokens are decoded when is the business
of `batch`.
"""

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from steerplug.engine.call_marks import Turn
from steerplug.engine.closing import Closing
from steerplug.engine.constraint import Constraint
from steerplug.engine.context import Context, Row
from steerplug.engine.detokenizer import Detokenizer
from steerplug.engine.likelihood import PromptScores, likelihood
from steerplug.engine.prefix_cache import Held, PrefixCache
from steerplug.engine.request import Logprobs, Piece, Progress, Request
from steerplug.engine.sampler import Sampler
from steerplug.engine.scope import plan
from steerplug.engine.vocab import Vocab
from steerplug.errors import ReplyTimeout, RequestError

Item = Piece | BaseException | None
Deliver = Callable[[Item], None]
"""Takes each piece of a reply, then None, or the error that ended it; called by the worker."""


class Followed(NamedTuple):
    """Another reply that is about to decode the first n tokens of this one."""

    reply: "Generation"
    n: int


class Drawn(NamedTuple):
    """A token that was drawn, and how likely it was if the request asks for that.

    It is None where the request asks for no token at all.
    """

    token: int | None
    logprobs: Logprobs | None


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
        self.progress, self.deliver = progress, deliver
        self.cancelled = False
        self.held: Held | None = None
        self.follows: Followed | None = None
        self.tokens = list(request.prompt.tokens)
        self.timeout, self._partition = request.timeout, request.partition
        self._begin = time.perf_counter()
        self._cache, self._vocab, self._logprobs = cache, vocab, request.logprobs
        self._tells_end, self._scores = request.tells_end, None
        if request.scored:
            self._scores = PromptScores(self.tokens, request.logprobs or 0, progress.scores)
        self._text = Detokenizer(request.stop)
        self._first = len(self.tokens) - request.prompt.begun
        room = n_ctx - len(self.tokens)
        self._budget = room if request.max_tokens is None else min(request.max_tokens, room)
        self._lay_out(request)
        self._no_room = partial(request.no_room, n_ctx) if request.must_fit else None
        self._closing = None
        if request.grammar is not None and self._budget:
            constraint = Constraint(vocab, request.grammar)
            begun = self.tokens[self._first :]
            if begun and not constraint.replay(begun):
                raise RequestError(
                    f"{vocab.text(begun)[:80]!r} begins no reply in the format asked for, or no "
                    "call; change the message that is gone on with, or leave out the format."
                )
            self._closing = Closing(constraint, vocab, self._budget, self._may_close, begun)
            if self._no_room and not self._closing.fits:
                raise self._no_room(self._closing.n_needed())
        sampling = request.sampling.seeded()
        self._sampler = Sampler(
            sampling, vocab.n_tokens, vocab=vocab, n_ctx=n_ctx, prompt=self.tokens
        )
        self.runs_on = whole and not (request.stop or self._marks or self._turn or self._closing
                                      or request.logprobs is not None or self._budget == 0)
        """Whether the next tokens can be drawn before anything is made of the last ones."""
        self._counted = 0
        progress.n_prompt, progress.seed = len(self.tokens), sampling.seed

    def _lay_out(self, request: Request) -> None:
        """Decide what steers each token, with the phases that steering leaves out."""
        self._marks = self._vocab.thinking if "thinking" in request.unsteered else None
        begin = Turn(request.calls, self._vocab) if request.calls is not None else None
        leaves_calls = request.calls is not None and not request.calls.steered
        laid = plan(request.mix, request.prompt, self._marks, begin if leaves_calls else None)
        self._steering = list(laid.prompt)
        self._generated, self._is_thinking = laid.generated, laid.is_thinking
        if "constrained" in request.unsteered and request.grammar is not None:
            self.progress.left_out = self._generated is not None
            boundary = request.prompt.boundary
            self._steering[boundary:] = [None] * (len(self._steering) - boundary)
            self._generated = None
        self._turn, self._leaves_calls = begin and self._begun(begin), leaves_calls
        self.keys: array[int] = self._cache.keys(
            self.tokens, self._steering, self._partition
        )

    def _begun(self, turn: Turn) -> Turn:
        """Return the turn as far as the prompt has it already.

        Raises:
            RequestError: it ends in a call.
        """
        if _in_thought(self.tokens[: self._first], self._vocab.thinking):
            turn = replace(turn, in_thought=True)
        for token in self.tokens[self._first :]:
            turn = turn.after(token)
        if turn.in_call:
            raise RequestError(
                f"the last message ends in the midst of a call ({turn.calls.opening}), with which "
                "no reply goes on; leave the call out."
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
        return self._budget - self.progress.n_generated

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

    def count(self, moved: float, n_moved: int) -> None:
        """Account for rows that were decoded, and for steered tokens, each of them once."""
        self.progress.moved += moved
        self.progress.n_moved += n_moved
        if self.n_missing == 0:
            for applied in self._steering[self._counted :]:
                self.progress.n_steered += applied is not None
            self._counted = len(self._steering)

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
        token, logprobs = drawn
        progress = self.progress
        progress.seconds = time.perf_counter() - self._begin
        progress.seconds_to_first = progress.seconds_to_first or progress.seconds
        if token is None:
            progress.finish_reason = "length"
        elif self._vocab.ends_generation(token):
            progress.finish_reason = self._why_complete()
            if self._tells_end:
                self.deliver(Piece("", token, moved, logprobs))
        else:
            in_call = self._append(token)
            is_mark = self._turn is not None and token in self._turn.shown
            shown = self._text.feed(self._vocab.piece(token, is_mark), stops=not in_call)
            progress.finish_reason = self._why_it_ends()
            self.deliver(Piece(shown, token, moved, logprobs, in_call))
        if progress.finish_reason is None:
            if self._closing is not None:
                self._closing.constraint.look_ahead()
            return False
        progress.cut_short = self._closing is not None and self._closing.cut_short
        if rest := self._text.finish():
            self.deliver(Piece(rest, None, 0.0))
        return True

    def draw(self, context: Context, row: int) -> Drawn:
        """Draw the next token from the logits of batch row `row`.

        Raises:
            EngineError: no token can follow.
        """
        if self._budget == 0:
            return Drawn(None, None)
        if self._logprobs is None:
            return Drawn(self._draw_token(context, row), None)
        logits = context.logits(row)  # as steered, before a grammar restricts them
        token = self._draw_token(context, row)
        return Drawn(token, likelihood(logits, token, self._logprobs))

    def _draw_token(self, context: Context, row: int) -> int:
        if self._closing is not None:
            self._closing.constraint.restrict(context.logits_in_place(row))
            drawn = self._sampler.draw(context, row)
            token = self._closing.accept(drawn)
            if token != drawn:
                self._sampler.remember([*self.tokens, token])
            return token
        token = self._sampler.draw(context, row)
        return self._draw_opening(token, context, row) if self._opens_call(token) else token

    def _opens_call(self, token: int) -> bool:
        return self._turn is not None and self._turn.after(token).in_call

    def _draw_opening(self, token: int, context: Context, row: int) -> int:
        """Hold the reply to the grammar of calls from the token on that completes their mark."""
        assert self._turn is not None
        calls, logits = self._turn.calls, context.logits_in_place(row)
        if calls.forbidden:
            while self._opens_call(token):
                logits[token] = -np.inf
                token = self._draw_again(context, row)
        elif calls.then is not None:
            constraint = Constraint(self._vocab, calls.then)
            constraint.replay(self._since_mark(token))
            if not constraint.admits([token]):  # it goes on behind the mark as no call does
                constraint.restrict(logits)
                token = self._draw_again(context, row)
            if self._opens_call(token):
                constraint.accept(token)
                self._closing = Closing(
                    constraint, self._vocab, self.n_left - 1, self._may_close
                )
                if not self._closing.fits:  # the reply ends here, with no call rather than half
                    self._budget = self.progress.n_generated + 1
        return token

    def _draw_again(self, context: Context, row: int) -> int:
        """Draw in place of a token that is not said, which penalties do not count."""
        self._sampler.remember(self.tokens)
        return self._sampler.draw(context, row)

    def _may_close(self) -> bool:
        """Whether what is said may be shortened to fit its room; which tool is called may not.

        Raises:
            RequestError, ContextOverflow: it must fit, and the call it chose is too long.
        """
        if self._turn is None:
            return True
        calls = self._turn.calls
        said = self._vocab.text(self.tokens[self._first :], special=True)
        if calls.opening not in said or calls.is_named(said):
            return True
        if self._no_room and not calls.has_named(said):
            assert self._closing is not None
            n_more = self._closing.n_needed()
            raise self._no_room(n_more and self.progress.n_generated + 1 + n_more)
        return False

    def _since_mark(self, token: int) -> list[int]:
        """Return the reply's tokens in which the mark began that `token` completes."""
        assert self._turn is not None
        said, mark = self.tokens[self._first :], self._turn.calls.opening.encode()
        n, text = 0, self._vocab.piece(token, True)
        while mark not in text:
            n += 1
            text = self._vocab.piece(said[-n], True) + text
        return said[len(said) - n :]

    def _append(self, token: int) -> bool:
        """Add a drawn token, to be decoded next; return whether it is part of a call."""
        before = self._turn
        if self._marks and token in self._marks:
            self._is_thinking = token == self._marks[0]
        if self._turn is not None:
            self._turn = self._turn.after(token)
        in_call = self._turn is not None and self._turn.in_call
        is_left_out = self._is_thinking or (in_call and self._leaves_calls)
        applied = None if is_left_out else self._generated
        self.progress.left_out |= is_left_out and self._generated is not None
        self.tokens.append(token)
        self._steering.append(applied)
        self.keys.append(self._cache.key(token, applied, self._partition))
        self.progress.n_generated += 1
        return in_call or (before is not None and before.in_call)

    def _why_it_ends(self) -> str | None:
        if self._text.stopped_by is not None:
            return "stop"
        if self._closing is not None and self._closing.constraint.is_complete:
            return self._why_complete()
        return "length" if self.progress.n_generated >= self._budget else None

    def _why_complete(self) -> str:
        return "length" if self._closing is not None and self._closing.was_forced else "stop"

    def end(self, error: BaseException | None = None) -> None:
        """Tell who waits that nothing more will come, and why."""
        self._sampler.close()
        self._closing = None  # it knows this reply, and would keep it until the collector comes
        self.deliver(error)


def _in_thought(tokens: Sequence[int], thinking: tuple[int, int] | None) -> bool:
    """Whether a prompt ends in the midst of thinking."""
    marks = [token for token in tokens if token in thinking] if thinking else []
    return bool(marks) and thinking is not None and marks[-1] == thinking[0]
