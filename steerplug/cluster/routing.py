"""How Ray Serve is told which replica is warm for a request; see `warmth`.

A request comes one of two ways. Behind HAProxy (`environment`), HAProxy asks a `Front` for each
POST and then streams between client and replica with nobody between. Behind Serve's own proxy only
headers are seen: `x-session-id` is a chat, and `serve_multiplexed_model_id` a mix. Both ask the
same `WarmRouter`, which counts what a replica said it has (`Replica.record_routing_stats`) and what
was sent there since; only where that speaks against a warm replica are all asked what they have.

Ray calls its request routers alpha and the hook for a `Front` internal, so pyproject.toml names the
one version that has both.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from steerplug.cluster.warmth import Keys, Warmth

STATS_PERIOD = 1.0
"""Seconds from one word of a replica on what it has to do to the next."""

_DEADLINE = 0.1
"""Seconds in which a replica says what it has, when it is asked."""

_UNDER_WAY = 0.05
"""Seconds in which a request that was sent there has come."""


_MOST = 2**20
"""Bytes that a body may have for its keys to be looked for; HAProxy forwards 2**18."""

_PATIENCE = 5.0
"""Seconds in which it must have come."""


class WarmRouter(RequestRouter):
    """Sends requests to where they are warm, and to others where that one refuses."""

    def initialize_state(self, **_named: Any) -> None:
        """Know nobody yet."""
        self._warmth = Warmth()
        self._told: dict[str, _Told] = {}

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return the replica to ask first, and then all others."""
        by_name = {str(each.replica_id): each for each in candidate_replicas}
        if not by_name:
            return []
        keys = _keys(pending_request)
        told = {name: self._heard(its) for name, its in by_name.items()}
        loads = {name: its.load for name, its in told.items()}
        favourite = self._warmth.favourite(keys, list(by_name))
        if favourite and not self._warmth.is_free(favourite, loads):
            asked = await asyncio.gather(*map(_ask, by_name.values()))  # replicas may go meanwhile
            loads = {
                name: max(loads[name] if load is None else load, told[name].under_way)
                for name, load in zip(by_name, asked, strict=True)
            }
        chosen = self._warmth.choose(keys, loads)
        told[chosen].sent.append(time.monotonic())
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        first = by_name.pop(chosen)
        return [[first], list(by_name.values())] if by_name else [[first]]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Forget replicas that are gone."""
        names = {str(each.replica_id) for each in replicas}
        self._told = {name: told for name, told in self._told.items() if name in names}
        super().update_replicas(replicas)

    def _heard(self, replica: RunningReplica) -> "_Told":
        """Return what is known of a replica."""
        stats = replica.routing_stats
        told = self._told.setdefault(str(replica.replica_id), _Told(stats))
        if told.stats != stats:
            told.stats, told.sent = stats, []
        return told


@dataclass
class _Told:
    """The last word of a replica, and when requests were sent there since."""

    stats: dict[str, Any]
    sent: list[float] = field(default_factory=list)

    @property
    def load(self) -> int:
        """How many requests it may have."""
        return int(self.stats.get("n_requests", 0)) + len(self.sent)

    @property
    def under_way(self) -> int:
        """How many of those since may not have come there yet."""
        since = time.monotonic() - _UNDER_WAY
        return sum(sent > since for sent in self.sent)


async def _ask(replica: RunningReplica) -> int | None:
    """Return how many requests a replica has, unless it does not say."""
    try:
        return await asyncio.wait_for(replica.get_queue_len(deadline_s=_DEADLINE), _DEADLINE)
    except Exception:  # Ray's or the time's; Serve finds out by itself who has died
        return None


def _keys(request: PendingRequest | None) -> Keys:
    """Return the keys that a front computed, or else what headers say."""
    if request is None:
        return Keys()
    if request.args and isinstance(request.args[0], Keys):
        return request.args[0]
    return Keys(request.metadata.session_id, request.metadata.multiplexed_model_id)


@serve.ingress()
class Front:
    """Says to HAProxy, which waits for it, where a request goes; so there is little here.

    Args:
        replicas: a handle on them.
    """

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, replicas: DeploymentHandle[Any]
    ) -> None:
        self._replicas = replicas
        replicas._init(_run_router_in_separate_loop=False)  # whose thread each request would wake

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the application; Ray asks when the front is made."""
        return Starlette(routes=[Route("/internal/route", self._route, methods=["POST"])])

    async def _route(self, request: Request) -> JSONResponse:
        """Choose one; Ray waits where there is none."""
        keys = Keys.of(await _body(request))
        async with self._replicas.choose_replica(keys, _reserve=False) as chosen:
            return JSONResponse({"replica_id": chosen._replica.replica_id.to_full_id_str()})


async def _body(request: Request) -> bytes:
    """Return a body, or as good as none: HAProxy sends short ones, and at once."""
    body = bytearray()
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_PATIENCE):
            async for part in request.stream():
                body += part
                if len(body) > _MOST:
                    break
            else:
                return bytes(body)
    return b""
