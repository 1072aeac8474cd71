"""Chats of several turns, in which the model hears its own replies: what users say is a script."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.engine import Engine
from steerplug.engine.reader import Reader
from steerplug.engine.request import Request
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.evaluate.arms import Arm
from steerplug.evaluate.journal import key_of
from steerplug.fit.measure import divergence, reply_log_probs
from steerplug.fit.reply_cache import CachedReply, ReplyCache, ask
from steerplug.steering.value import Array


@dataclass(frozen=True)
class Dialogue:
    """A chat that was had: what the user said, and the replies; turns are counted from 0."""

    questions: tuple[str, ...]
    replies: tuple[CachedReply, ...] = ()

    def prompt(self, turn: int, arm: Arm, template: ChatTemplate) -> Prompt:
        """Return the tokens that the reply of a turn follows, a preset brought in by this arm."""
        messages: list[Message] = []
        for question, reply in zip(self.questions[:turn], self.replies, strict=False):
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": reply.text})
        return arm.prompt(template, [*messages, {"role": "user", "content": self.questions[turn]}])


Manner = tuple[Dialogue, Arm]
"""A chat, and how a preset is brought into it where it is read."""


def converse(
    engine: Engine,
    template: ChatTemplate,
    questions: tuple[str, ...],
    arms: Sequence[Arm],
    *,
    n_tokens: int,
    cache: ReplyCache | None = None,
) -> Dialogue:
    """Have a chat, with greedy replies.

    Args:
        engine: the model.
        template: how it reads chats.
        questions: what the user says, turn by turn.
        arms: how the preset is brought in, turn by turn.
        n_tokens: most tokens of a reply.
        cache: replies that are not asked for again; new ones are put in.
    """
    chat = Dialogue(questions)
    for turn, arm in enumerate(arms):
        request = Request(
            chat.prompt(turn, arm, template), arm.mix, Sampling(temperature=0),
            max_tokens=n_tokens, thinking_budget=0,
        )  # fmt: skip
        chat = Dialogue(questions, (*chat.replies, ask(engine, request, cache)))
    return chat


def longest(
    template: ChatTemplate, scripts: Sequence[tuple[str, ...]], arms: Iterable[Arm], n_tokens: int
) -> int:
    """Return how many tokens the longest of these chats may have, with replies of `n_tokens`."""
    def asked(script: tuple[str, ...], arm: Arm) -> Prompt:
        unanswered = Dialogue(script, (CachedReply((), " "),) * len(script))
        return unanswered.prompt(len(script) - 1, arm, template)

    return max(
        len(asked(script, arm).tokens) + len(script) * (n_tokens + 2)
        for arm in arms for script in scripts
    )  # fmt: skip


def distances(
    reader: Reader,
    template: ChatTemplate,
    own: Manner,
    others: Mapping[str, Manner],
    turns: range,
    kept: MutableMapping[str, Any],
) -> dict[str, list[float]]:
    """Return how far others are from `own` along its replies: sum KL(own || other) of each turn.

    Args:
        reader: of a context on the model.
        template: how it reads chats.
        own: whose replies all read, each behind its own chat.
        others: by name.
        turns: those that are read.
        kept: figures that are not measured again; new ones are put in.
    """
    replies = [own[0].replies[turn].tokens for turn in turns]
    keys = {
        name: key_of("KL", replies, *(_named(template, manner, turns) for manner in (own, other)))
        for name, other in others.items()
    }
    if any(key not in kept for key in keys.values()):
        log_probs = list(_read(reader, template, own, turns, replies))
        for name, other in others.items():
            if keys[name] not in kept:
                kept[keys[name]] = [
                    float(divergence(np.exp(p), p, q).sum())
                    for p, q in zip(
                        log_probs, _read(reader, template, other, turns, replies), strict=True
                    )
                ]
    return {name: list(kept[key]) for name, key in keys.items()}


def _read(
    reader: Reader, template: ChatTemplate, manner: Manner, turns: range,
    replies: Sequence[tuple[int, ...]],
) -> Iterator[Array]:  # fmt: skip
    """Yield the log-probabilities of each turn's rows, (n_rows, n_vocab)."""
    chat, arm = manner
    for turn, reply in zip(turns, replies, strict=True):
        yield from reply_log_probs(reader, chat.prompt(turn, arm, template), reply, [arm.mix])


def _named(template: ChatTemplate, manner: Manner, turns: range) -> tuple[object, ...]:
    chat, arm = manner
    return chat.prompt(turns[-1], arm, template), arm.mix.digest, turns
