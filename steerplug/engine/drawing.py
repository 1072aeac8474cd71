"""How a reply's next token is drawn: by the sampler, among what a grammar lets follow.

A grammar holds a reply from its beginning, or from the mark on that opens a tool call. It is closed
in time, so that the reply is whole when its room ends; see `closing`. Where a thought comes first
it is free, and the grammar holds the answer; see `forced_tokens`.
"""

import re
from functools import partial
from typing import NamedTuple

import numpy as np

from steerplug.engine.call_marks import Turn
from steerplug.engine.closing import Closing
from steerplug.engine.constraint import Constraint
from steerplug.engine.context import Context
from steerplug.engine.forced_tokens import ForcedTokens
from steerplug.engine.likelihood import likelihood
from steerplug.engine.openings import Opening
from steerplug.engine.request import Logprobs, Request
from steerplug.engine.sampler import Sampler
from steerplug.engine.thoughts import Segment, Thinking
from steerplug.engine.vocab import Vocab
from steerplug.errors import RequestError

_MAY_END_A_CALL = re.compile(rb"[})>\]]")


class Drawn(NamedTuple):
    """A token that was drawn, and how likely it was if the request asks for that.

    It is None where the request asks for no token at all.
    """

    token: int | None
    logprobs: Logprobs | None


class Drawing:
    """Draws the tokens of one reply.

    Args:
        request: what was asked for.
        tokens: prompt and reply; the reply's are added by whom this belongs to.
        turn: how far calls have come at the end of the prompt; None: there are none to tell.
        thinking: how far thoughts have; None: likewise.
        vocab: the model's vocabulary.
        n_ctx: how many tokens prompt and reply may have together.

    Raises:
        RequestError: the grammar cannot be followed, or the reply must fit and lacks the room.
        ContextOverflow: it would have the room if the prompt were shorter.
    """

    def __init__(
        self, request: Request, tokens: list[int], turn: Turn | None, thinking: Thinking | None,
        vocab: Vocab, n_ctx: int,
    ) -> None:  # fmt: skip
        self._tokens, self._n_prompt, self._vocab = tokens, len(tokens), vocab
        self._first = self._n_prompt - request.prompt.begun
        self._turn, self._logprobs = turn, request.logprobs
        self.repeats = False
        """Whether the last call of the reply is one that it made before."""
        self._forced: ForcedTokens | None = None
        if thinking is not None:
            self._forced = ForcedTokens(thinking, vocab, request.thinking_budget)
        room = n_ctx - self._n_prompt
        self._budget = room if request.max_tokens is None else min(request.max_tokens, room)
        self._no_room = partial(request.no_room, n_ctx) if request.must_fit else None
        self._owed: Constraint | None = None
        self._n_owed = 0
        is_held = bool(self._budget) and request.grammar is not None
        self._closing = self._hold(request) if is_held else None
        sampling = request.sampling.seeded()
        self.seed = sampling.seed
        self._sampler = Sampler(sampling, vocab.n_tokens, vocab=vocab, n_ctx=n_ctx, prompt=tokens)

    def _hold(self, request: Request) -> Closing | None:
        """Return what the reply is held to from its beginning; None where that is its answer."""
        assert request.grammar is not None
        constraint = Constraint(self._vocab, request.grammar)
        if self._forced is not None and self._forced.thinking.is_ahead:
            self._owe(constraint, self._forced.n_around + 1)
            return None
        begun = self._tokens[self._first :]
        if begun and not constraint.replay(begun):
            raise RequestError(
                f"{self._vocab.text(begun)[:80]!r} begins no reply in the format asked for, or no "
                "call; change the message that is being continued, or leave out the format."
            )
        closing = Closing(constraint, self._vocab, self._budget, self._may_close, begun)
        if self._no_room and not closing.fits:
            raise self._no_room(closing.n_needed())
        return closing

    def _owe(self, constraint: Constraint, n_around: int) -> None:
        """Keep the grammar for the answer, and room for what is sure to follow it."""
        closing = Closing(constraint.copy(), self._vocab, max(self._budget - n_around, 0))
        n_needed = closing.n_needed()
        if self._no_room and not closing.fits:
            raise self._no_room(n_needed and n_needed + n_around)
        self._owed, self._n_owed = constraint, (n_needed or 0) + n_around

    @property
    def n_left(self) -> int:
        """How many tokens the reply may still have."""
        return self._budget - self._n_generated

    @property
    def _n_generated(self) -> int:
        return len(self._tokens) - self._n_prompt

    @property
    def is_free(self) -> bool:
        """Whether any token may follow, and nothing more is to be told of it than itself."""
        is_held = self._closing or self._turn or self._owed
        is_led = self._forced is not None and not self._forced.is_free
        return not (is_held or is_led) and self._logprobs is None and self._budget > 0

    @property
    def is_complete(self) -> bool:
        """Whether the grammar lets nothing more follow."""
        return self._closing is not None and self._closing.constraint.is_complete

    @property
    def was_forced(self) -> bool:
        """Whether the grammar was closed because of the reply's room."""
        return self._closing is not None and self._closing.was_forced

    @property
    def cut_short(self) -> bool:
        """Whether the reply holds less than was drawn."""
        return self._closing is not None and self._closing.cut_short

    @property
    def in_call(self) -> bool:
        """Whether the next token belongs to a call."""
        return self._turn is not None and self._turn.in_call

    def is_mark(self, token: int) -> bool:
        """Whether a token is a mark of calls, which is shown even where it is a control token."""
        return self._turn is not None and token in self._turn.shown

    def accept(self, token: int) -> tuple[bool, list[Segment]]:
        """Go on past a token of the reply; return whether it is part of a call, and what it says.

        What it says is told where the model thinks.
        """
        was_in_call, thinking = self.in_call, self._forced.thinking if self._forced else None
        was_in_thought = thinking is not None and thinking.in_thought
        segments: list[Segment] = []
        if self._turn is not None:
            self._turn, segments = self._turn.passing(token, thinking)
            self._note_repeat(self._turn, token)
        elif thinking is not None:
            segments = thinking.read(token)
        if self._forced and self._owed and was_in_thought:
            self._forced.lead_on(token)
        return was_in_call or self.in_call, segments

    def _note_repeat(self, turn: Turn, token: int) -> None:
        """Note whether a token ends a call that was made before."""
        if turn.way and _MAY_END_A_CALL.search(self._vocab.piece(token, True)):
            text = self._vocab.text([*self._reply(), token], special=True)
            calls = list(turn.way.calls(text))
            self.repeats = calls[-1:] != [] and calls[-1] in calls[:-1]

    def look_ahead(self) -> None:
        """Begin to find out what the grammar lets follow."""
        if self._closing is not None:
            self._closing.constraint.look_ahead()

    def close(self) -> None:
        """Free the sampler."""
        self._sampler.close()
        self._closing = None  # it knows this, and would keep it until the collector comes

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
        if self._forced is not None and (token := self._next_forced(self._forced)) is not None:
            return self._force(token)
        if self._closing is not None:
            self._closing.constraint.restrict(context.logits_in_place(row))
            drawn = self._sampler.draw(context, row)
            token = self._closing.accept(drawn)
            if token != drawn:
                self._sampler.remember([*self._tokens, token])
            return token
        token = self._sampler.draw(context, row)
        if self._forced and self._owed and self._vocab.ends_generation(token):
            return self._force(self._forced.end(self._tokens[-1]))  # the thought ends, no more
        return self._draw_opening(token, context, row) if self._opens_call(token) else token

    def _force(self, token: int) -> int:
        """Return a token that comes in place of one that was drawn."""
        self._sampler.remember([*self._tokens, token])
        return token

    def _next_forced(self, forced_tokens: ForcedTokens) -> int | None:
        """Return the token that comes next whatever is drawn; hold the answer if it begins here."""
        n_left = None if self._owed is None else self.n_left - self._n_owed
        token = forced_tokens.next(self._tokens[-1], n_left)
        if token is None and self._owed is not None and not forced_tokens.thinking.is_ahead:
            self._first = len(self._tokens)
            self._closing = Closing(self._owed, self._vocab, self.n_left, self._may_close)
            self._owed = None
        return token

    def _opens_call(self, token: int) -> bool:
        if self._turn is None or (self._forced and self._forced.thinking.in_thought):
            return False
        return self._turn.after(token).in_call

    def _draw_opening(self, token: int, context: Context, row: int) -> int:
        """Hold the reply to the grammar of calls from the token on that completes their mark."""
        assert self._turn is not None
        way, logits = self._turn.after(token).way, context.logits_in_place(row)
        if self._turn.calls.forbidden:
            while self._opens_call(token):
                logits[token] = -np.inf
                token = self._draw_again(context, row)
        elif way is not None and way.then is not None:
            constraint = Constraint(self._vocab, way.then)
            constraint.replay(self._since_opening(way.opening.in_bytes, token))
            if not constraint.admits([token]):  # it goes on behind the mark as no call does
                constraint.restrict(logits)
                token = self._draw_again(context, row)
            if self._opens_call(token):
                constraint.accept(token)
                self._closing = Closing(
                    constraint, self._vocab, self.n_left - 1, self._may_close
                )
                if not self._closing.fits:  # the reply ends here, with no call rather than half
                    self._budget = self._n_generated + 1
        return token

    def _draw_again(self, context: Context, row: int) -> int:
        """Draw in place of a token that is not said, which penalties do not count."""
        self._sampler.remember(self._tokens)
        return self._sampler.draw(context, row)

    def _may_close(self) -> bool:
        """Whether the reply may be shortened to fit its room; which tool it calls may not.

        Raises:
            RequestError, ContextOverflow: it must fit, and the call it chose is too long.
        """
        if self._turn is None or self._turn.way is None:
            return True
        calls = list(self._turn.way.calls(self._vocab.text(self._reply(), special=True)))
        if calls and calls[-1][1] is None:
            return True
        if self._no_room and not calls:
            assert self._closing is not None
            n_more = self._closing.n_needed()
            raise self._no_room(n_more and self._n_generated + 1 + n_more)
        return False

    def _since_opening(self, opening: Opening, token: int) -> list[int]:
        """Return the reply's tokens in which the opening began that `token` completes."""
        tokens = self._reply()
        n, text = 0, self._vocab.piece(token, True)
        while opening.find(text.decode("latin-1")) is None:
            n += 1
            text = self._vocab.piece(tokens[-n], True) + text
        return tokens[len(tokens) - n :]

    def _reply(self) -> list[int]:
        """Return the tokens of the reply, with those that the prompt has of it already."""
        return self._tokens[self._first :]
