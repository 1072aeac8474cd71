"""One replica: engines, and the server that any other steerplug is, as Ray Serve runs it."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from steerplug.cluster import agreement
from steerplug.cluster.agreement import Facts
from steerplug.cluster.counts import together
from steerplug.cluster.place import Place
from steerplug.engine import build_info
from steerplug.errors import SteerplugError
from steerplug.server.app import create_app
from steerplug.server.config import Config, ModelConfig
from steerplug.server.log import log_to_stderr
from steerplug.server.models import Models
from steerplug.server.opened import opened
from steerplug.server.state import ServerState
from steerplug.store.store import Store
from steerplug.version import __version__

log = logging.getLogger("steerplug.server")

LOOK = 2.0
"""Seconds from one look at the place of presets, and at what others have, to the next."""

_PATIENCE = 5
"""Looks in which a new replica may find what others already have."""

_ANSWER = 5.0


class NodeError(SteerplugError):
    """A replica cannot be on its node; the sentence names both the node and the cure."""


@dataclass
class ReplicaState(ServerState):
    """A replica's models, and its word on the others.

    Args:
        name: what this replica is called.
        others: a handle on all replicas.
    """

    name: str
    others: DeploymentHandle[Any]

    async def counts(self) -> bytes:
        """Return what all replicas count; of one that has just died nobody knows."""
        asked = self.others.broadcast("own_counts")
        told = await asked.results_async(timeout_s=_ANSWER, return_exceptions=True)
        return together(dict(one for one in told if not isinstance(one, BaseException)))


@serve.ingress()
class Replica:
    """Engines, and the server on them.

    Args:
        setup: of the server.
        models: what each model is, and how it is served.

    Raises:
        NodeError: this node lacks a model, or differs from others in what matters.
    """

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, setup: Config, models: Sequence[tuple[str, ModelConfig]]
    ) -> None:
        context = serve.get_replica_context()
        self.name, self._node = context.replica_id.unique_id, node_name()
        self._wanted = {one.name: one for _, one in models}
        self._at_the_end, self._seen, self._told = ExitStack(), "", ""
        log_to_stderr()
        try:
            self.models = await asyncio.to_thread(self._open, setup, models)
            await self._agree()
        except SteerplugError as error:
            raise self._here(error) from None
        handle = serve.get_deployment_handle(context.deployment, context.app_name)
        self._serving = ReplicaState(self.models, setup, self.name, handle)
        self._looking = asyncio.create_task(self._keep_looking())

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Ray asks when the replica is made."""
        return create_app(self._serving)

    def check_health(self) -> None:
        """Raise what makes Ray replace this replica."""
        if not self._serving.is_ready:
            raise NodeError(f"node {self._node}: an engine of this replica has ended.")

    def record_routing_stats(self) -> dict[str, float]:
        """Return what routers are told, now and then, and when that was."""
        now = [served.session.engine.metrics() for served in self.models]
        n_requests = sum(one.n_running + one.n_waiting for one in now)
        return {"n_requests": n_requests, "at": time.time()}

    def own_counts(self) -> tuple[str, bytes]:
        """Return the name of this replica, and what it counts."""
        return self.name, self._serving.metrics.text()

    def _open(self, setup: Config, models: Sequence[tuple[str, ModelConfig]]) -> Models:
        self._place, store = None, None
        if setup.presets_at:
            self._place = Place(setup.presets_at)
            self._place.pull()
            os.environ["STEERPLUG_PRESETS"] = str(self._place.folder)
            store = Store(self._place.compiled)
        threads = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)) or 1
        loaded = [(model, _as_replica(one, threads)) for model, one in models]
        return self._at_the_end.enter_context(opened(loaded, store))

    async def _agree(self) -> None:
        """Wait a little until this replica has what others have.

        Raises:
            NodeError: it has not.
        """
        for _ in range(_PATIENCE):
            difference = await self._report()
            if not difference:
                return
            await asyncio.sleep(LOOK / 2)
            await asyncio.to_thread(self._look)
            for served in self.models:
                await asyncio.to_thread(served.look_again)
        raise NodeError(difference)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            try:
                await asyncio.to_thread(self._look)
                difference = await self._report()
                if difference == self._seen != self._told:  # it is not just on its way
                    log.warning("%s", difference or "all replicas have the same again")
                    self._told = difference
                self._seen = difference
            except SteerplugError as error:
                log.warning("%s", self._here(error))

    def _look(self) -> None:
        """Take and give what is new in the place of presets; the first replica compiles."""
        if self._place:
            self._place.push()
            self._place.pull()
        compiles = serve.get_replica_context().rank.rank == 0
        for served in self.models:
            if compiles and served.config.compile != self._wanted[served.name].compile:
                served.begin_compiling(self._wanted[served.name].compile)

    async def _report(self) -> str:
        """Return what this replica has otherwise than others; nothing if nobody can say."""
        facts = await asyncio.to_thread(self._facts)
        with suppress(RayError, RayServeException, ValueError):
            their = serve.get_deployment_actor(agreement.NAME)
            return str(await their.report.remote(self.name, facts))
        return ""

    def _facts(self) -> Facts:
        offers = {
            f"{served.name}@{name}": offer
            for served in self.models for name, offer in served.catalog.listed.items()
        }  # fmt: skip
        return Facts(
            self._node,
            {
                "steerplug": __version__, "llama-cpp-python": build_info.version(),
                "llama.cpp built for": build_info.features(),
            },
            {served.name: served.session.model.fingerprint for served in self.models},
            {name: offer.preset.digest for name, offer in offers.items()},
            {
                name: built.steering.digest for name, offer in offers.items()
                if (built := offer.carrying.built)
            },
        )  # fmt: skip

    def _here(self, error: SteerplugError) -> SteerplugError:
        return error if self._node in str(error) else NodeError(f"node {self._node}: {error}")


def _as_replica(one: ModelConfig, threads: int) -> ModelConfig:
    """Return how a model is served by a replica: on the processors that Ray gave it."""
    loading = one.loading
    if loading.n_threads is None:
        loading = replace(loading, n_threads=threads, n_threads_batch=threads)
    return replace(one, loading=loading, compile=())


def node_name() -> str:
    """Return what people call the node of this process: its address, and its name in Ray."""
    node = ray.get_runtime_context().get_node_id()
    return f"{ray.util.get_node_ip_address()} ({node[:8]})"
