"""Whole replies, greedy, and how well they read.

    coherence   mean of log p_bare(y_i | bare prompt, y_<i) over the reply's tokens y, in nats: what
                the unsteered, unprompted model itself thinks of the text. More is more ordinary; a
                persona costs some, and broken text costs much.
    repetition  1 - distinct 4-grams / 4-grams of the reply's tokens: 0 says nothing twice.

Repetition belongs beside coherence: a model finds "aye, aye, aye, aye" only too likely.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.engine import Engine
from steerplug.engine.reader import Reader
from steerplug.engine.request import Request
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.evaluate.estimate import Estimate, ratio
from steerplug.fit.measure import reply_log_probs
from steerplug.fit.progress import Report, silent
from steerplug.fit.reply_cache import ReplyCache, ask, ask_all
from steerplug.preset import Preset
from steerplug.steering.value import NOTHING, Mix

_N = 4


@dataclass(frozen=True)
class JudgedReply:
    """What a model said.

    Args:
        bare: the prompt of the bare chat, under which the reply is judged.
        tokens: the reply.
        text: the same as text.
    """

    bare: Prompt
    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Reading:
    """How one reply reads: log p_bare of its `n_tokens`; its 4-grams, and those said before."""

    log_prob: float
    n_tokens: int
    n_repeated: int
    n_grams: int


@dataclass(frozen=True)
class Quality:
    """How well some replies read, with intervals over them; see the module."""

    coherence: Estimate
    repetition: Estimate

    @staticmethod
    def of(readings: Sequence[Reading]) -> "Quality":
        """Sum up the readings of some replies."""
        return Quality(
            ratio([r.log_prob for r in readings], [r.n_tokens for r in readings]),
            ratio([r.n_repeated for r in readings], [r.n_grams for r in readings]),
        )


def schema_of(preset: Preset, mix: Mix) -> Mapping[str, Any] | None:
    """Return the JSON Schema that steered replies must follow; who takes away asks for none."""
    adds = any(term.strength > 0 for term in mix.terms)
    return ANY_JSON if preset.format and adds else None


def greedy(
    engine: Engine,
    prompt: Prompt,
    mix: Mix = NOTHING,
    *,
    n_tokens: int,
    schema: Mapping[str, Any] | None = None,
    cache: ReplyCache | None = None,
) -> JudgedReply:
    """Return the model's reply to a prompt, the likeliest token at every step.

    Args:
        engine: the model.
        prompt: a bare chat, which is answered at once by a model that thinks.
        mix: how the reply is steered.
        n_tokens: most tokens of the reply.
        schema: a JSON Schema that the reply must follow.
        cache: replies that are not asked for again; a new one is put in.
    """
    return JudgedReply(prompt, *ask(engine, _greedy(prompt, mix, n_tokens, schema), cache))


def all_greedy(
    engine: Engine,
    prompts: Sequence[Prompt],
    mix: Mix = NOTHING,
    *,
    n_tokens: int,
    schema: Mapping[str, Any] | None = None,
    cache: ReplyCache | None = None,
    what: str = "",
    report: Report = silent,
) -> list[JudgedReply]:
    """Return the same of several prompts, made side by side.

    Args:
        engine: the model.
        prompts: bare chats.
        mix: how the replies are steered.
        n_tokens: most tokens of a reply.
        schema: a JSON Schema that the replies must follow.
        cache: replies that are not asked for again; new ones are put in.
        what: it is called in reports.
        report: told how far the work is.
    """
    requests = [_greedy(prompt, mix, n_tokens, schema) for prompt in prompts]
    replies = ask_all(engine, requests, cache, what, report)
    return [JudgedReply(prompt, *each) for prompt, each in zip(prompts, replies, strict=True)]


def _greedy(
    prompt: Prompt, mix: Mix, n_tokens: int, schema: Mapping[str, Any] | None
) -> Request:
    return Request(
        prompt, mix, Sampling(temperature=0), max_tokens=n_tokens, grammar=schema,
        thinking_budget=0,
    )  # fmt: skip


def read(reader: Reader, reply: JudgedReply) -> Reading:
    """Let the bare model read a reply."""
    log_prob = 0.0
    if reply.tokens:
        (rows,) = reply_log_probs(reader, reply.bare, reply.tokens[:-1], [NOTHING])
        log_prob = float(rows[np.arange(len(rows)), list(reply.tokens)].sum(dtype=np.float64))
    return Reading(log_prob, len(reply.tokens), *repeated(reply.tokens))


def repeated(tokens: Sequence[int]) -> tuple[int, int]:
    """Return how many of the 4-grams came before, and how many there are."""
    grams = [tuple(tokens[i : i + _N]) for i in range(len(tokens) - _N + 1)]
    return len(grams) - len(set(grams)), len(grams)
