"""Chats in the orders that templates insist on: no system message, user and assistant in turn.

What is said stays, in its order; who says it changes no more than the template demands.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256

from steerplug.chat.calls.plain import Message


def with_system_first(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the system's as one at their beginning, later ones told by users."""
    n = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    if n == 0:
        return with_system_told_by_users(messages)
    text = _together(message["content"] for message in messages[:n])
    return [{**messages[0], "content": text}, *with_system_told_by_users(messages[n:])]


def with_system_told_by_users(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the system's within the user's next turn, or a turn of their own."""
    turns: list[Message] = []
    pending: list[str] = []
    for message in messages:
        if message["role"] == "system":
            pending.append(message["content"])
            continue
        if pending and message["role"] == "user":
            message = {**message, "content": _together([*pending, message["content"]])}
        elif pending:
            _say(turns, pending)
        turns.append(message)
        pending = []
    if pending:
        _say(turns, pending)
    return turns


def _say(turns: list[Message], texts: Sequence[str]) -> None:
    """Add texts to the user's turn if that is the last, else as a turn."""
    if turns and turns[-1]["role"] == "user":
        texts = [turns.pop()["content"], *texts]
    turns.append({"role": "user", "content": _together(texts)})


def with_words_apart(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with what the assistant said before a call as a turn of its own."""
    turns: list[Message] = []
    for message in messages:
        if message.get("tool_calls") and message["content"]:
            turns.append({"role": "assistant", "content": message["content"]})
            message = {**message, "content": ""}
        turns.append(message)
    return turns


def orders(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield the messages as they are, then in orders that stricter templates accept."""
    yielded: list[list[Message]] = []
    identified = _identified(messages)
    for chat in (list(messages), identified, _with_calls_in_turn(identified)):
        joined = _joined(chat)
        for turns in (chat, joined, _answered(joined)):
            if turns not in yielded:
                yielded.append(turns)
                yield turns


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with neighbours of one role as one."""
    turns: list[Message] = []
    for message in messages:
        last = turns[-1] if turns else {}
        if last.get("role") == message["role"] != "tool" and not last.get("tool_calls"):
            text = _together([last["content"], message["content"]])
            message = {**turns.pop(), **message, "content": text}
        turns.append(message)
    return turns


def _answered(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with an answer of no words between what a tool returned and the user."""
    turns: list[Message] = []
    for message in messages:
        if turns and turns[-1]["role"] == "tool" and message["role"] == "user":
            turns.append({"role": "assistant", "content": ""})
        turns.append(message)
    return turns


def _with_calls_in_turn(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with each call in a turn of its own, followed by what it returned."""
    results = {m["tool_call_id"]: m for m in messages if m["role"] == "tool"}
    turns: list[Message] = []
    for message in messages:
        calls = message.get("tool_calls") or ()
        if len(calls) > 1 and all(call.id in results for call in calls):
            for i, call in enumerate(calls):
                content = "" if i else message["content"]
                turns.append({**message, "content": content, "tool_calls": (call,)})
                turns.append(results.pop(call.id))
        elif message["role"] != "tool" or message["tool_call_id"] in results:
            turns.append(message)
    return turns


def _identified(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with calls of nine letters as Mistral has them, and results named."""
    names = {call.id: call.name for m in messages for call in m.get("tool_calls") or ()}
    return [_with_identity(message, names) for message in messages]


def _with_identity(message: Message, names: dict[str, str]) -> Message:
    if calls := message.get("tool_calls"):
        return {**message, "tool_calls": [replace(call, id=_letters(call.id)) for call in calls]}
    if message["role"] != "tool":
        return message
    call_id = message.get("tool_call_id") or ""
    name = message.get("name") or names.get(call_id, "")
    return {**message, "tool_call_id": _letters(call_id), "name": name}


def _letters(call_id: str) -> str:
    is_short = len(call_id) == 9 and call_id.isascii() and call_id.isalnum()
    return call_id if is_short else sha256(call_id.encode()).hexdigest()[:9]


def _together(texts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, texts))
