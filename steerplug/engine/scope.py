"""Which tokens a mix steers: a function of the prompt alone, never of what happened to be cached.

"response": from the boundary token of each assistant turn (the last token before it, which predicts
its first) to the turn's end, and every generated token. "all": every token after BOS. "front"
(activation addition): row p of the steering is added at token p of the prompt; row 0 stands at BOS,
where the difference of two prompts is zero.

A request may leave phases of a reply unsteered: what the model thinks, and what stands between its
thoughts and its answer (see `thoughts`), its tool calls, between their marks, and replies that are
constrained to a grammar. Earlier
turns go by the same rule as far as tokens tell: thoughts and calls are left out there too, and
turns that were constrained are for the caller to leave out of `responses`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from steerplug.engine.call_marks import Turn
from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.thought_marks import ThoughtMarks
from steerplug.engine.thoughts import Thinking
from steerplug.steering.terms import Phase as Phase
from steerplug.steering.value import Mix, Steering

Begin = Callable[[Sequence[int]], Thinking]
"""Begins a turn behind these tokens."""


@dataclass(frozen=True)
class Prompt:
    """The tokens of a prompt, and where steering may act in it.

    Args:
        tokens: the whole prompt; the reply begins after the last one.
        responses: spans (start, end) of earlier assistant turns, boundary token included.
        has_bos: whether the first token is the model's BOS.
        begun: how many of the last tokens the reply has already: it goes on with them.
        thoughts: what the model writes around its thoughts; None: it has none to tell.
    """

    tokens: tuple[int, ...]
    responses: tuple[tuple[int, int], ...] = ()
    has_bos: bool = False
    begun: int = 0
    thoughts: ThoughtMarks | None = None

    @property
    def boundary(self) -> int:
        """Where the token stands that predicts the first of the reply."""
        return len(self.tokens) - self.begun - 1


@dataclass(frozen=True)
class Plan:
    """What steers each prompt token, and what steers each generated one."""

    prompt: tuple[RowSteering | None, ...]
    generated: RowSteering | None


def plan(
    mix: Mix, prompt: Prompt, begin: Begin | None = None, calls: Turn | None = None,
    *, leaves_thoughts: bool = True,
) -> Plan:  # fmt: skip
    """Lay a mix over a prompt.

    Args:
        mix: what steers.
        prompt: where.
        begin: tells thoughts; None: there are none.
        calls: a turn that begins, in which calls are left out; None: they are not.
        leaves_thoughts: whether thoughts are left out.
    """
    n = len(prompt.tokens)
    turns = *prompt.responses, (prompt.boundary, n)
    in_response = [False] * n
    for first, end in turns:
        in_response[first:end] = [True] * (end - first)
    reach = max((t.steering.n_positions for t in mix.terms if t.steering.scope == "front"),
                default=0)

    @cache
    def at(position: int, response: bool, after_bos: bool) -> RowSteering | None:
        terms = tuple(t for t in mix.terms if _acts(t.steering, position, response, after_bos))
        return lay_out(Mix(terms), position)

    laid = [at(min(i, reach), in_response[i], i > 0 or not prompt.has_bos) for i in range(n)]
    if mix and (begin or calls):
        for first, end in turns:
            for i in _left_out(prompt, first, end, begin, calls, leaves_thoughts):
                laid[i] = None
    return Plan(tuple(laid), at(reach, True, True))


def _left_out(
    prompt: Prompt, first: int, end: int, begin: Begin | None, turn: Turn | None,
    leaves_thoughts: bool,
) -> Iterator[int]:  # fmt: skip
    """Yield the tokens of a turn, its boundary first, that predict a thought or part of a call."""
    thinking = begin(prompt.tokens[: first + 1]) if begin else None
    if thinking and thinking.is_ahead and leaves_thoughts:
        yield first
    for i in range(first + 1, end):
        token = prompt.tokens[i]
        if turn is not None:
            turn, _ = turn.passing(token, thinking)
        elif thinking:
            thinking.read(token)
        is_thought = thinking is not None and thinking.is_ahead and leaves_thoughts
        if is_thought or (turn is not None and turn.in_call):
            yield i


def _acts(steering: Steering, position: int, response: bool, after_bos: bool) -> bool:
    if steering.scope == "front":
        return position < steering.n_positions
    return response or (steering.scope == "all" and after_bos)
