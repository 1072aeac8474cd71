"""Which block to steer and how hard, where a preset leaves it to `auto`: by measurement.

Candidates are (block, coefficient). For a teacher the best is the one that closes most of the gap;
for a contrast, the one that makes the best dial while the damage stays within `MAX_DAMAGE` (see
`measure`). The block is found first, by a coarse pass over the depth and a fine one around its
winner; then the coefficient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from steerplug.errors import FitError
from steerplug.fit.difference import Directions
from steerplug.steering.value import Delta, Scope, Steering

MAX_DAMAGE = 0.5
"""Nats per token by which the model's own words may become less likely."""

_COARSE = 7
_COEFFICIENTS = (2.0, 4.0)

Score = Callable[[Sequence[Steering]], Sequence[float]]
"""Steerings -> their scores; higher is better, -inf is out of the question."""


@dataclass(frozen=True)
class Choice:
    """The chosen blocks and coefficient, and the score they reached."""

    layers: tuple[int, ...]
    coefficient: float
    score: float


@dataclass(frozen=True)
class Candidates:
    """The steerings that may be chosen from: directions, and the geometry they live in."""

    name: str
    n_embd: int
    n_layer: int
    scope: Scope
    directions: Directions

    def steering(self, layers: Sequence[int], coefficient: float) -> Steering:
        """Return the steering that adds `coefficient` times the directions of these blocks."""
        deltas = {il: Delta.constant(coefficient * self.directions[il]) for il in layers}
        return Steering(self.name, self.n_embd, self.n_layer, deltas, self.scope)


def choose(
    candidates: Candidates,
    score: Score,
    layers: Literal["auto"] | Sequence[int],
    coefficient: Literal["auto"] | float,
) -> Choice:
    """Return the best choice; what is not "auto" stays as given.

    Raises:
        FitError: every candidate is out of the question.
    """
    start = 1.0 if coefficient == "auto" else coefficient
    if layers == "auto":
        available = sorted(candidates.directions)
        step = -(-len(available) // _COARSE)
        best = _best(candidates, score, [((il,), start) for il in available[step // 2 :: step]])
        (il,) = best.layers
        near = {il - step // 2, il + step // 2} & set(available)
        best = _best(candidates, score, [((n,), start) for n in sorted(near)], best)
    else:
        best = _best(candidates, score, [(tuple(layers), start)])
    if coefficient == "auto":
        best = _best(candidates, score, [(best.layers, c) for c in _COEFFICIENTS], best)
    if not np.isfinite(best.score):
        raise FitError(
            f"`{candidates.name}` garbles this model at every block tried; "
            "give it clearer texts, or a smaller `coefficient`."
        )
    return best


def _best(
    candidates: Candidates,
    score: Score,
    tries: Sequence[tuple[tuple[int, ...], float]],
    known: Choice | None = None,
) -> Choice:
    scores = score([candidates.steering(s, c) for s, c in tries]) if tries else []
    choices = [Choice(s, c, x) for (s, c), x in zip(tries, scores, strict=True)]
    return max([*choices, *([known] if known else [])], key=lambda choice: choice.score)
