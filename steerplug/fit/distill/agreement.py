"""Whether the torch copy is the model: its logits beside llama.cpp's, on several hundred tokens.

    KL     mean over rows of sum_v p(v) (log p(v) - log q(v)), in nats      p llama.cpp, q torch
    error  median over rows of |q - p| / |p|, logits less the row's mean: where experts are
           chosen, rounding tips a row over now and then

Both in float32. What is left between the same functions comes of llama.cpp's rounding: of keys and
values to 16 bits (error 3e-4), of activations with F16 weights (1e-3), BF16 ones (7e-3, KL 1e-4) or
quantised ones (5e-2, KL 0.006).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from steerplug.engine.free_memory import give_back
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.rows import Row
from steerplug.errors import TorchCopyError
from steerplug.fit.distill.readable import CURE
from steerplug.fit.distill.student import Passage, Prefix, Student
from steerplug.fit.distill.weights import device_here
from steerplug.fit.measure import divergence, log_softmax
from steerplug.fit.questions import general_prompts
from steerplug.steering.value import Array

N_TOKENS = 400
"""Scaled rotary frequencies hardly show in a short text."""

MAX_KL, MAX_ERROR = 0.02, 1e-2
_EACH = 4
"""Of so many parts of the text the last is compared."""


class Agreement(NamedTuple):
    """How far a torch copy is from llama.cpp."""

    kl: float
    error: float

    def holds(self, *, coarse: bool) -> bool:
        """Whether rounding explains it: of activations to some 8 bits if `coarse`, else to 16."""
        return self.kl <= MAX_KL and (coarse or self.error <= MAX_ERROR)


def read_student(model: Model, reader: Reader) -> Student:
    """Return the torch copy of a model, which computes what llama.cpp does.

    Args:
        model: the model; its file is read again.
        reader: of a context on it; what it held is dropped.

    Raises:
        TorchCopyError: torch cannot follow llama.cpp's graph, or computes something else.
    """
    student = Student(model, reader.context.n_ctx, device_here())
    found = agreement(student, model, reader)
    if not found.holds(coarse=model.header.is_coarse):
        raise TorchCopyError(
            f"the torch copy of {model.path.name} ({model.architecture}) is another model: its "
            f"logits are {found.error:.1%} off llama.cpp's ({found.kl:.3f} nats per token); {CURE}."
        )
    student.to_fastest_type()
    give_back()
    return student


def agreement(student: Student, model: Model, reader: Reader) -> Agreement:
    """Return how far the logits of a student are from llama.cpp's.

    Args:
        student: the torch copy.
        model: what it is a copy of.
        reader: of a context on the model; what it held is dropped.
    """
    tokens = _text(model)[: min(N_TOKENS, reader.context.n_ctx)]
    first = len(tokens) * (_EACH - 1) // _EACH
    p, q = _of_llama(reader, tokens, first), _of_torch(student, tokens, first)
    apart = [_apart(p[i : i + 1], q[i : i + 1]) for i in range(len(p))]
    kl, error = np.transpose(apart)
    return Agreement(float(kl.mean()), float(np.median(error)))


def _apart(p: Array, q: Array) -> tuple[float, float]:
    """Return KL and error of the logits of one row, (1, n_vocab): all at once they fill memory."""
    log_p, log_q = log_softmax(p), log_softmax(q)
    kl = divergence(np.exp(log_p), log_p, log_q)
    p, q = p - p.mean(), q - q.mean()
    return float(kl[0]), float(np.linalg.norm(q - p) / np.linalg.norm(p))


def _text(model: Model) -> list[int]:
    return [*model.vocab.start, *model.vocab.tokenize("\n".join(general_prompts("fit")))]


def _of_llama(reader: Reader, tokens: Sequence[int], first: int) -> Array:
    rows = [Row(token, i, i >= first) for i, token in enumerate(tokens)]
    reader.reuse([])
    return np.stack([
        reader.context.logits(i - batch.begin)
        for batch in reader.decode(rows)
        for i in range(max(first, batch.begin), batch.end)
    ])  # fmt: skip


def _of_torch(student: Student, tokens: Sequence[int], first: int) -> Array:
    with torch.no_grad():
        hidden = student.hidden([Passage(Prefix(), tuple(tokens), first)])
        return np.asarray(student.logits(hidden).float().cpu().numpy(), np.float32)
