"""A proof that row r of a batch is row r at the blocks, where llama.cpp groups rows by sequence.

Recurrent and hybrid models are evaluated in groups of equally many rows of each sequence. Batches
of one row for each of several sequences stay in order then. That is tried out on every new context:
some rows have a direction planted at the first block, and their logits have to move, no others.
"""

from collections.abc import Callable, Sequence

import numpy as np

from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.model import Model
from steerplug.errors import EngineError, ModelError
from steerplug.steering.value import Array, Delta, Mix, Steering

ONE_AT_A_TIME = frozenset({"plamo2"})
"""Architectures on which llama.cpp ends the process over a batch of several sequences."""

_MOST = 4

Decode = Callable[[Sequence[RowSteering | None]], list[Array]]
"""Decodes one token for each of as many sequences, steered so, and returns their logits."""


def prove(model: Model, n_seq: int, decode: Decode) -> None:
    """Prove that steering reaches the rows that it was meant for.

    Which rows are steered follows the binary digits of their numbers, so that every row has a
    pattern of its own.

    Raises:
        ModelError: it reaches others, or cannot be tried.
    """
    if model.architecture in ONE_AT_A_TIME:
        raise ModelError(
            f"llama.cpp cannot decode rows of several sequences together on {model.path.name} "
            f"({model.architecture}); use n_seq = 1."
        )
    n = min(n_seq, _MOST)
    planted = lay_out(_planted(model))
    try:
        plain = decode([None] * n)
        for digit in range((n - 1).bit_length()):
            steered = [bool(row >> digit & 1) for row in range(n)]
            logits = decode([planted if yes else None for yes in steered])
            if [not np.array_equal(*both) for both in zip(plain, logits, strict=True)] != steered:
                raise EngineError("other rows than those that were steered have moved")
    except EngineError as error:
        raise ModelError(
            f"llama.cpp regroups the rows of {model.path.name} ({model.architecture}) in a way "
            f"that steering cannot follow ({error}); use n_seq = 1."
        ) from None


def _planted(model: Model) -> Mix:
    z = np.random.default_rng(0).standard_normal(model.n_embd).astype(np.float32)
    return Mix.of(Steering("planted", model.n_embd, model.n_layer, {0: Delta.constant(z)}))
