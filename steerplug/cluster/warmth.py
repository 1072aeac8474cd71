"""Which replica is warm for a request: it has read how this chat begins, or lays out its preset.

    chat    the one that answered the chat before
    mix     the first of its own order of replicas, which every router computes alike
    else    whoever has least to do

each only if it has no more than `slack` requests beyond whoever has least. So nobody waits behind a
favourite: a mix that all ask for spreads over as many replicas as it keeps busy, in its own order,
and stays on them.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SLACK = 4
"""Requests that a warm replica may have beyond the one with least; each reads its prompt in less
than one that must read it anew."""

_MOST_CHATS = 20_000
_MOST_TEXT = 2_000


@dataclass(frozen=True)
class Keys:
    """What makes a request like others: how its chat begins, under which mix, and the mix alone."""

    chat: str = ""
    mix: str = ""

    @classmethod
    def of(cls, body: bytes) -> "Keys":
        """Return those of a request's body; none of one that cannot be read."""
        try:
            said = json.loads(body)
            if not isinstance(said, dict):
                return cls()
            mix = _mix(said)
            begins = json.dumps(_beginning(said), sort_keys=True)[:_MOST_TEXT]
            return cls(hashlib.sha256(f"{mix}\n{begins}".encode()).hexdigest(), mix)
        except (ValueError, RecursionError):  # no JSON, half a character, endless brackets
            return cls()


def _mix(said: Mapping[str, Any]) -> str:
    """Return the model and how it is steered, however that is said."""
    steering = said.get("steering")
    words = "" if steering is None else json.dumps(steering, sort_keys=True)
    return f"{said.get('model', '')} {words} {said.get('carrier', '')}"


def _beginning(said: Mapping[str, Any]) -> Any:
    """Return what stays as it is while a chat goes on: all up to the user's first message."""
    messages = said.get("messages", said.get("input"))
    if not isinstance(messages, list):
        return messages or said.get("prompt")
    begin = []
    for message in messages:
        begin.append(message)
        if isinstance(message, dict) and message.get("role") == "user":
            break
    return [said.get("tools"), said.get("instructions"), begin]


class Warmth:
    """Remembers who answered which chat.

    Args:
        slack: see the module.
    """

    def __init__(self, slack: int = SLACK) -> None:
        self._slack = slack
        self._chats: OrderedDict[str, str] = OrderedDict()

    def favourite(self, keys: Keys, replicas: Sequence[str]) -> str:
        """Return the replica that is warm for a request, or nothing if all are alike to it."""
        known = self._chats.get(keys.chat, "")
        if known in replicas:
            return known
        return _order(keys.mix, replicas)[0] if keys.mix else ""

    def is_free(self, replica: str, loads: Mapping[str, int]) -> bool:
        """Say whether a replica may have one request more, by how many each has."""
        return loads[replica] <= min(loads.values()) + self._slack

    def choose(self, keys: Keys, loads: Mapping[str, int]) -> str:
        """Return the replica that a request should go to.

        Args:
            keys: the request's.
            loads: how many requests each replica has; at least one replica.
        """
        free = [name for name in loads if self.is_free(name, loads)]
        chosen = self.favourite(keys, free) or min(free, key=loads.__getitem__)
        if keys.chat:
            self._chats[keys.chat] = chosen
            self._chats.move_to_end(keys.chat)
            if len(self._chats) > _MOST_CHATS:
                self._chats.popitem(last=False)
        return chosen


def _order(mix: str, replicas: Sequence[str]) -> list[str]:
    """Return replicas in a mix's own order, in which those that come and go move no others."""
    return sorted(replicas, key=lambda name: hashlib.sha256(f"{mix}\n{name}".encode()).digest())
