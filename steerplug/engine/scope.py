"""Which tokens a mix steers: a function of the prompt alone, never of what happened to be cached.

"response": from the boundary token of each assistant turn (the last token before it, which predicts
its first) to the turn's end, and every generated token. "all": every token after BOS. "front"
(activation addition): row p of the steering is added at the p-th token after BOS.
"""

from dataclasses import dataclass

from steerplug.engine.hook import Applied, lay_out
from steerplug.steering.value import Mix


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
    n, start = len(prompt.tokens), int(prompt.has_bos)
    in_response = [False] * n
    for begin, end in (*prompt.responses, (n - 1, n)):
        in_response[begin:end] = [True] * (end - begin)

    made: dict[tuple[bool, int], Applied | None] = {}

    def at(response: bool, position: int) -> Applied | None:
        """`position`: tokens after BOS, cut to where no front term reaches any more."""
        position = min(position, reach)
        if (response, position) not in made:
            terms = tuple(
                term for term in mix.terms
                if _reaches(term.steering.scope, term.steering.n_positions, response, position)
            )
            made[response, position] = lay_out(Mix(terms), position)
        return made[response, position]

    reach = max((t.steering.n_positions for t in mix.terms if t.steering.scope == "front"),
                default=0)
    laid = [None] * start + [at(in_response[i], i - start) for i in range(start, n)]
    return Plan(tuple(laid), at(True, reach))


def _reaches(scope: str, n_positions: int, response: bool, position: int) -> bool:
    if scope == "front":
        return position < n_positions
    return response or scope == "all"

