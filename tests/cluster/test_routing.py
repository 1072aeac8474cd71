"""What a front says to HAProxy, without a cluster: whatever the body is, where a request goes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from steerplug.cluster.warmth import Keys

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # of Ray's

CHAT = b'{"model": "m@pirate", "messages": [{"role": "user", "content": "Hi"}]}'


class Replicas:
    """A handle on them that says who was asked for."""

    def __init__(self) -> None:
        self.asked: list[Keys] = []

    @asynccontextmanager
    async def choose_replica(self, keys: Keys, *, _reserve: bool) -> AsyncIterator[Any]:
        assert not _reserve
        self.asked.append(keys)
        replica_id = SimpleNamespace(to_full_id_str=lambda: "a")
        yield SimpleNamespace(_replica=SimpleNamespace(replica_id=replica_id))


async def keys_of(*messages: dict[str, Any]) -> Keys:
    """Return by what a front looked for a replica; after these messages comes no other."""
    from steerplug.cluster.routing import Front

    front: Any = SimpleNamespace(_replicas=Replicas())
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        for message in coming:
            return {"type": "http.request", **message}
        await asyncio.Event().wait()
        raise AssertionError

    headers = [(b"x-session-id", b"\xff"), (b"\xe9", b"\x80")]
    scope = {"type": "http", "method": "POST", "path": "/internal/route", "headers": headers}
    answer = await Front._route(front, Request(scope, receive))
    assert json.loads(bytes(answer.body)) == {"replica_id": "a"}
    (keys,) = front._replicas.asked
    assert isinstance(keys, Keys)
    return keys


async def test_a_body_that_comes_in_parts_has_the_keys_of_the_whole() -> None:
    first, last = {"body": CHAT[:20], "more_body": True}, {"body": CHAT[20:]}
    assert await keys_of(first, last) == Keys.of(CHAT) != Keys()


@pytest.mark.parametrize(
    "messages",
    [
        [{"body": b"[" * 200_000}],
        [{"body": CHAT[:-1]}],
        [{"body": CHAT, "more_body": True}, {"type": "http.disconnect"}],
        [{"body": CHAT, "more_body": True}],
        [],
        [*[{"body": b" " * 2**16, "more_body": True}] * 64, {"body": CHAT}],
    ],
    ids=["deep", "cut", "gone", "without an end", "without a beginning", "gigantic"],
)
async def test_a_body_that_cannot_be_read_goes_to_whoever_has_least(
    messages: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerplug.cluster import routing

    monkeypatch.setattr(routing, "_PATIENCE", 0.05)
    assert await keys_of(*messages) == Keys()
