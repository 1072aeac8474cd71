"""How likely tokens are in the model as steered: the one that was drawn, and those of a prompt.

A token of a prompt is judged by the logits of the row before it, which are read as the prompt is
decoded; nothing of them is kept but its own log-probability and the likeliest few. So such a prompt
can use no cell of the cache whose logits nobody read, and only so many of its rows are decoded at
once as their logits fit into `_LOGITS` bytes.
"""

from collections.abc import Sequence

import numpy as np

from steerplug.engine.context import Context
from steerplug.engine.request import Logprobs
from steerplug.steering.value import Array

_LOGITS = 64 * 1024 * 1024


def most_rows(n_vocab: int) -> int:
    """Return of how many rows the logits may be asked for at once, beside one for each reply."""
    return max(_LOGITS // (4 * n_vocab), 1)


def likelihood(logits: Array, token: int, n: int) -> Logprobs:
    """Return how likely a token is by a row of logits, and the n likeliest."""
    log_total = _log_sum_exp(logits)
    likeliest = tuple((t, float(logits[t]) - log_total) for t in _top(logits, n))
    return Logprobs(float(logits[token]) - log_total, likeliest)


class PromptScores:
    """How likely each token of a prompt is, as far as its rows have been read.

    Args:
        tokens: the prompt.
        n: how many of the likeliest tokens are told at each.
        scores: filled token by token; the first, which nothing comes before, has None.
    """

    def __init__(self, tokens: Sequence[int], n: int, scores: list[Logprobs | None]) -> None:
        self._tokens, self._n, self._scores = tuple(tokens), n, scores
        scores[:] = [None]

    @property
    def n_read(self) -> int:
        """How many rows from the start have been read; their cells may come from the cache."""
        return len(self._scores) - 1

    def wants(self, position: int) -> bool:
        """Whether the logits of the row at a position are still to be read."""
        return self.n_read <= position < len(self._tokens) - 1

    def read(self, context: Context, row: int, begin: int, n: int) -> None:
        """Read what n rows of the last decode say, which begin at batch row `row`."""
        for i in range(n):
            if self.wants(begin + i):
                logits = context.logits_in_place(row + i)
                token = self._tokens[begin + i + 1]
                self._scores.append(likelihood(logits, token, self._n))


def _log_sum_exp(logits: Array) -> float:
    highest = float(logits.max())
    return highest + float(np.log(np.exp(logits - np.float32(highest)).sum(dtype=np.float64)))


def _top(logits: Array, n: int) -> list[int]:
    """Return the n likeliest tokens, likeliest first."""
    if n < 2:
        return [int(logits.argmax())] if n else []
    top = np.argpartition(logits, -n)[-n:]
    return [int(token) for token in top[np.argsort(-logits[top], kind="stable")]]
