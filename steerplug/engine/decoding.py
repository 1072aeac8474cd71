"""One decode of a batch, and on for a few tokens where nobody waits to see the next one.

Between two decodes the weights have thrown everything else out of the processor's caches, and what
is then made of one token takes as long as what is made of five at once. So what a decode has drawn
may be decoded before anything else is made of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steerplug.engine.context import Context
from steerplug.engine.drawing import Drawn
from steerplug.engine.effects import Effects
from steerplug.engine.generation import Generation
from steerplug.engine.rows import Row
from steerplug.errors import SteerplugError


class Part(NamedTuple):
    """The next n tokens of a reply."""

    reply: Generation
    n: int


@dataclass(eq=False)
class Outcome:
    """What came of one decode.

    Args:
        parts: what was decoded.
        drawn: what each part drew from it. Nothing is drawn before a reply is ready; what went
            wrong in one is kept in its place.
        told: what had become known by then of what this and earlier decodes did to their rows.
        effects: what this one did, once that is known.
    """

    parts: Sequence[Part]
    drawn: list[Drawn | Exception | None]
    told: list[Effects]
    effects: Effects | None = None


def decode(
    context: Context, parts: Sequence[Part], most: int, is_called: Callable[[], bool]
) -> tuple[list[Outcome], SteerplugError | None]:
    """Decode these parts, and then what they drew, again and again.

    Args:
        context: where their cells are.
        parts: what to decode first.
        most: most decodes.
        is_called: whether to come to an end, for something else is to be seen to.

    Returns:
        What came of each decode, and the error that ended the last one, if any.
    """
    outcomes: list[Outcome] = []
    rows = [row for part in parts for row in part.reply.rows(part.n)]
    context.hook.tells_later = not any(part.reply.tells_moved for part in parts)
    while rows:
        try:
            context.decode(rows)
        except SteerplugError as error:
            return outcomes, error
        outcomes.append(Outcome(parts, _draw(context, parts), context.hook.untold()))
        goes_on = len(outcomes) < most and not is_called()
        rows = _rows_on(parts, outcomes) if goes_on else []
    return outcomes, None


def _draw(context: Context, parts: Sequence[Part]) -> list[Drawn | Exception | None]:
    """Read what is said of prompts, and draw the next token of each reply that is ready."""
    drawn: list[Drawn | Exception | None] = []
    end = 0
    for reply, n in parts:
        end += n
        try:
            reply.read(context, end - n, n)
            drawn.append(reply.draw(context, end - 1) if n == reply.n_missing else None)
        except Exception as error:  # what goes wrong in one reply must not end the others
            drawn.append(error)
    return drawn


def _rows_on(parts: Sequence[Part], outcomes: Sequence[Outcome]) -> list[Row]:
    """Return the rows of what was drawn last, or none where a reply has to be looked at."""
    rows: list[Row] = []
    for (reply, _), drawn in zip(parts, outcomes[-1].drawn, strict=True):
        if not isinstance(drawn, Drawn) or drawn.token is None or reply.stops_at(drawn.token):
            return []
        rows.append(reply.row_on(drawn.token, len(outcomes) - 1))
    return rows
