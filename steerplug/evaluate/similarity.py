"""How alike two steerings are: the cosine of what they add, block by block.

    cos = sum_t <a_t, b_t> / sqrt(sum_t |a_t|^2 sum_t |b_t|^2)        a_t = delta_a(h_t) at block il

h_t: (n_embd,), the unsteered model's activations leaving block il, at the last token of a few chats
and at the tokens of its own greedy replies. A constant adds the same at each; a gate does not, so
two sets of gates are compared by what they do and not by their weights. Size: mean of |a_t| / |h_t|
at strength 1, a share.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steerplug.engine.engine import Engine
from steerplug.engine.reader import Reader
from steerplug.engine.reference import add_delta
from steerplug.engine.request import Request, tokens_of
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.fit.activations import capture
from steerplug.steering.value import NOTHING, Array, Delta, Steering

_REPLY = 24  # tokens


@dataclass(frozen=True)
class Similarity:
    """Two steerings at one block; a cosine of None where one of them adds nothing."""

    il: int
    cosine: float | None
    size_a: float
    size_b: float


def similarities(
    a: Steering, b: Steering, engine: Engine, reader: Reader, prompts: Sequence[Prompt]
) -> list[Similarity]:
    """Return how alike two steerings are at each block that either steers.

    Args:
        a: for the engine's model; rows for the front of a prompt count as one each.
        b: the same.
        engine: writes the replies.
        reader: of a context of its own, which reads them.
        prompts: chats that end where a reply begins.
    """
    layers = sorted({*a.layers, *b.layers})
    chats = [(prompt, _reply(engine, prompt)) for prompt in prompts]
    rows = np.concatenate(
        [
            capture(reader, (*prompt.tokens, *reply), layers, len(prompt.tokens) - 1)
            for prompt, reply in chats
        ],
        axis=1,
    )
    return [
        _similarity(il, a.layers.get(il), b.layers.get(il), h)
        for il, h in zip(layers, rows, strict=True)
    ]


def _reply(engine: Engine, prompt: Prompt) -> tuple[int, ...]:
    request = Request(prompt, NOTHING, Sampling(temperature=0), max_tokens=_REPLY)
    return tokens_of(engine.generate(request))


def _similarity(il: int, a: Delta | None, b: Delta | None, h: Array) -> Similarity:
    added_a, added_b = _added(a, h), _added(b, h)
    n = min(len(added_a), len(added_b))
    dot = float((added_a[:n] * added_b[:n]).sum())
    norms = float(np.sqrt((added_a**2).sum() * (added_b**2).sum()))
    lengths = np.linalg.norm(h, axis=1).mean()
    size_a, size_b = (
        float(np.linalg.norm(added, axis=1).mean() / lengths) for added in (added_a, added_b)
    )
    return Similarity(il, dot / norms if norms else None, size_a, size_b)


def _added(delta: Delta | None, h: Array) -> Array:
    """Return what is added at each row, (n_rows, n_embd); of a front, its own rows."""
    if delta is None:
        return np.zeros_like(h)
    if len(delta.z) > 1:
        return delta.z
    return np.stack([add_delta(delta, 1.0, row) for row in h])
