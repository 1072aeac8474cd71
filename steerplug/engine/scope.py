"""Which tokens a mix steers: a function of the prompt alone, never of what happened to be cached.

"response": from the boundary token of each assistant turn (the last token before it, which predicts
its first) to the turn's end, and every generated token. "all": every token after BOS. "front"
(activation addition): row p of the steering is added at token p of the prompt; row 0 stands at BOS,
where the difference of two prompts is zero.
"""

from dataclasses import dataclass
from functools import cache

from steerplug.engine.hook import Applied, lay_out
from steerplug.steering.value import Mix, Steering


@dataclass(frozen=True)
class Prompt:
    """The tokens of a prompt, and where steering may act in it.

    Args:
        tokens: the whole prompt; the reply begins after the last one.
        responses: spans (start, end) of earlier assistant turns, boundary token included.
        has_bos: whether the first token is the model's BOS.
    """

    tokens: tuple[int, ...]
    responses: tuple[tuple[int, int], ...] = ()
    has_bos: bool = False


@dataclass(frozen=True)
class Plan:
    """What steers each prompt token, and what steers each generated one."""

    prompt: tuple[Applied | None, ...]
    generated: Applied | None


def plan(mix: Mix, prompt: Prompt) -> Plan:
    """Lay a mix over a prompt."""
    n = len(prompt.tokens)
    in_response = [False] * n
    for begin, end in (*prompt.responses, (n - 1, n)):
        in_response[begin:end] = [True] * (end - begin)
    reach = max((t.steering.n_positions for t in mix.terms if t.steering.scope == "front"),
                default=0)

    @cache
    def at(position: int, response: bool, after_bos: bool) -> Applied | None:
        terms = tuple(t for t in mix.terms if _acts(t.steering, position, response, after_bos))
        return lay_out(Mix(terms), position)

    laid = [at(min(i, reach), in_response[i], i > 0 or not prompt.has_bos) for i in range(n)]
    return Plan(tuple(laid), at(reach, True, True))


def _acts(steering: Steering, position: int, response: bool, after_bos: bool) -> bool:
    if steering.scope == "front":
        return position < steering.n_positions
    return response or (steering.scope == "all" and after_bos)
