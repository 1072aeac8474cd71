"""What tests of the engine ask for, and how far a reply is from what it is alone."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Logprobs, Piece
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.scope import Prompt
from steerplug.fit.measure import reply_log_probs
from steerplug.steering.value import Array, Delta, Mix, Scope, Steering

LAYERS = (8, 14, 20)
"""Of SmolLM2's 30 blocks; in a smaller model, those that lie where these do."""
NOISE = 0.03
"""Nats that another order of the same cells, or another shape of batch, may change."""


def steering(
    model: Model,
    seed: int = 1,
    scope: Scope = "response",
    size: float = 60.0,
    layers: Sequence[int] | None = None,
) -> Mix:
    """A random direction at some blocks; in scope `front` at tokens 1 to 4."""
    rng, n = np.random.default_rng(seed), 5 if scope == "front" else 1
    deltas = {}
    for il in layers or [il * model.n_layer // 30 for il in LAYERS]:
        z = rng.standard_normal((n, model.n_embd))
        z *= size / np.linalg.norm(z, axis=1, keepdims=True)
        z[0] = 0 if n > 1 else z[0]
        deltas[il] = Delta.constant(z.astype(np.float32))
    return Mix.of(Steering(f"seed {seed}", model.n_embd, model.n_layer, deltas, scope))


def chat(model: Model, *turns: str) -> Prompt:
    """A chat of user and assistant turns in ChatML, up to the next assistant turn."""
    tokens: list[int] = []
    responses = []
    for i, text in enumerate(turns):
        role = ("user", "assistant")[i % 2]
        tokens += model.vocab.tokenize(f"<|im_start|>{role}\n", special=True)
        begin = len(tokens) - 1
        tokens += model.vocab.tokenize(f"{text}<|im_end|>", special=True)
        if role == "assistant":
            responses.append((begin, len(tokens)))
        tokens += model.vocab.tokenize("\n")
    tokens += model.vocab.tokenize("<|im_start|>assistant\n", special=True)
    return Prompt(tuple(tokens), tuple(responses), has_bos=tokens[0] == model.vocab.bos)


def far_from_alone(
    context: Context, prompt: Prompt, mix: Mix, pieces: Sequence[Piece]
) -> float:
    """How far the distributions a reply was drawn from are from those of its tokens on their own.

    The mean over tokens of KL(alone || reply) in nats, over the tokens that the pieces tell and all
    others as one; the context is emptied first, and decodes the whole reply in one sequence.
    """
    drawn = [(piece.token, piece.logprobs) for piece in pieces if piece.token is not None]
    tokens = [token for token, _ in drawn]
    context.clear()
    (alone,) = reply_log_probs(Reader(context), prompt, tokens[:-1], [mix])
    told = [logprobs for _, logprobs in drawn]
    return float(np.mean(list(map(_divergence, alone, told))))


def unlike_alone(
    context: Context, prompt: Prompt, mix: Mix, tokens: Sequence[int]
) -> float:
    """How much likelier, in nats, the likeliest token is than the one a greedy reply has there.

    The most over its tokens, each behind those before it, alone in the context.
    """
    context.clear()
    (alone,) = reply_log_probs(Reader(context), prompt, tokens[:-1], [mix])
    alone[:, context.model.vocab.eos] = -np.inf  # asked for without an end
    return float((alone.max(axis=1) - alone[np.arange(len(tokens)), list(tokens)]).max())


def _divergence(alone: Array, told: Logprobs | None) -> float:
    assert told is not None
    tokens = [token for token, _ in told.top]
    p = np.exp(alone[tokens].astype(np.float64))
    q = np.exp([logprob for _, logprob in told.top])
    p, q = (np.append(x, max(1 - x.sum(), 1e-6)) for x in (p, q))
    return float((p * np.log(p / q)).sum())


def until(condition: Callable[..., bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def check_accounts(engine: Engine) -> None:
    """Nothing runs; what the cache believes is what llama.cpp holds."""
    metrics, cache = engine.metrics(), engine._worker.scheduler.cache
    assert (metrics.n_running, metrics.n_waiting) == (0, 0)
    assert not any(held.taken for held in cache.sequences)
    cache.check()
