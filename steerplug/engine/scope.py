"""Which tokens a mix steers: a function of the prompt alone, never of what happened to be cached.

"response": from the boundary token of each assistant turn (the last token before it, which predicts
its first) to the turn's end, and every generated token. "all": every token after BOS. "front"
(activation addition): row p of the steering is added at token p of the prompt; row 0 stands at BOS,
where the difference of two prompts is zero.

A request may leave phases of a reply unsteered: what the model thinks, between its marks for
thinking, its tool calls, between theirs, and replies that are constrained to a grammar. Earlier
turns go by the same rule as far as tokens tell: thoughts and calls are left out there too, and
turns that were constrained are for the caller to leave out of `responses`.
"""

from dataclasses import dataclass
from functools import cache

from steerplug.engine.call_marks import Turn
from steerplug.engine.hook import Applied, lay_out
from steerplug.steering.terms import Phase as Phase
from steerplug.steering.value import Mix, Steering

Marks = tuple[int, int]
"""The tokens between which a model thinks."""


@dataclass(frozen=True)
class Prompt:
    """The tokens of a prompt, and where steering may act in it.

    Args:
        tokens: the whole prompt; the reply begins after the last one.
        responses: spans (start, end) of earlier assistant turns, boundary token included.
        has_bos: whether the first token is the model's BOS.
        begun: how many of the last tokens the reply has already: it goes on with them.
    """

    tokens: tuple[int, ...]
    responses: tuple[tuple[int, int], ...] = ()
    has_bos: bool = False
    begun: int = 0

    @property
    def boundary(self) -> int:
        """Where the token stands that predicts the first of the reply."""
        return len(self.tokens) - self.begun - 1


@dataclass(frozen=True)
class Plan:
    """What steers each prompt token, and what steers each generated one.

    `is_thinking` says whether the reply begins in the midst of thinking.
    """

    prompt: tuple[Applied | None, ...]
    generated: Applied | None
    is_thinking: bool = False


def plan(
    mix: Mix, prompt: Prompt, marks: Marks | None = None, calls: Turn | None = None
) -> Plan:
    """Lay a mix over a prompt.

    With `marks`, thinking is left out; with `calls`, a turn that begins, calls are.
    """
    n = len(prompt.tokens)
    in_response = [False] * n
    for begin, end in (*prompt.responses, (prompt.boundary, n)):
        in_response[begin:end] = [True] * (end - begin)
    reach = max((t.steering.n_positions for t in mix.terms if t.steering.scope == "front"),
                default=0)

    @cache
    def at(position: int, response: bool, after_bos: bool) -> Applied | None:
        terms = tuple(t for t in mix.terms if _acts(t.steering, position, response, after_bos))
        return lay_out(Mix(terms), position)

    laid = [at(min(i, reach), in_response[i], i > 0 or not prompt.has_bos) for i in range(n)]
    thinking = _thinking(prompt, marks) if marks else [False] * n
    calling = _calling(prompt, calls) if calls else [False] * n
    for i in range(n):
        if thinking[i] or calling[i]:
            laid[i] = None
    return Plan(tuple(laid), at(reach, True, True), n > 0 and thinking[-1])


def _thinking(prompt: Prompt, marks: Marks) -> list[bool]:
    """Return for each token whether the one that it predicts is a thought."""
    begins, now, thinking = {begin for begin, _ in prompt.responses}, False, []
    for i, token in enumerate(prompt.tokens):
        if token in marks:
            now = token == marks[0]
        elif i in begins:  # a turn that was cut off while thinking ends there
            now = False
        thinking.append(now)
    return thinking


def _calling(prompt: Prompt, begin: Turn) -> list[bool]:
    """Return for each token whether the one that it predicts belongs to a call."""
    calling = [False] * len(prompt.tokens)
    for first, end in prompt.responses:
        turn = begin
        for i in range(first + 1, end):
            turn = turn.after(prompt.tokens[i])
            calling[i] = turn.in_call
    return calling


def _acts(steering: Steering, position: int, response: bool, after_bos: bool) -> bool:
    if steering.scope == "front":
        return position < steering.n_positions
    return response or (steering.scope == "all" and after_bos)
