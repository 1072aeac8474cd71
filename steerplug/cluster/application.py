"""What Ray Serve runs: replicas, and behind HAProxy a front that says which of several is warm."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.serve import Application

from steerplug.cluster import agreement, routing
from steerplug.cluster.environment import ENVIRONMENT
from steerplug.cluster.replica import Replica
from steerplug.cluster.routing import Front, WarmRouter
from steerplug.errors import SteerplugError
from steerplug.server.config import Config, ModelConfig

log = logging.getLogger("steerplug.server")

REPLICAS = "Replica"
"""What the deployment is called in Serve's configuration, and its status."""

_LAST_WORDS = 5.0
_LOGGING = {"enable_access_log": False}
"""The server's log has a line of each request, with more in it."""

_SURGE = 25
"""Per cent of replicas, at least one, that come before old ones go when a new version does."""


def application(
    setup: Config, models: Sequence[tuple[str, ModelConfig]], grace: float | None = None,
    alone: bool = False,
) -> Application:  # fmt: skip
    """Return the application of these models.

    A replica takes as many processors as its models have threads, 1 unless they say; Serve's own
    configuration may say otherwise of the deployment `Replica`, and then threads follow.

    Args:
        setup: of the server.
        models: what each is, and how it is served.
        grace: seconds in which the replies of a replica that goes may end; default: as long as any
            reply may take, so that none notices.
        alone: whether there will never be a second replica, so that nobody is to be asked where a
            request goes. An application that loses its front for this loses requests meanwhile.

    Raises:
        SteerplugError: clients are to change what only one of the replicas would know.
    """
    if setup.admin_key is not None:
        raise SteerplugError(
            "an admin key changes the defaults of one process, and replicas come and go; leave it "
            "out, and say `steer` and `compile` where you start them."
        )
    options: dict[str, Any] = {
        "num_replicas": setup.replicas or 1,
        "max_ongoing_requests": setup.limits.connections,  # the guard says no, in a sentence
        "ray_actor_options": {"num_cpus": n_threads(models)},
        "graceful_shutdown_timeout_s": (grace or setup.limits.timeout) + _LAST_WORDS,
        "max_constructor_retry_count": 3,
        "max_surge_percent": _SURGE,
        "deployment_actors": [agreement.actor()],
        "logging_config": _LOGGING,
    }
    if not alone:
        options["request_router_config"] = {
            "request_router_class": f"{WarmRouter.__module__}:{WarmRouter.__name__}",
            "request_routing_stats_period_s": routing.STATS_PERIOD,
        }
    replicas = serve.deployment(name=REPLICAS, **options)(Replica).bind(
        replace(setup, replicas=None), models  # how many there are is no new version
    )
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        log.warning(
            "requests go through Ray's own proxy, which knows no chats and takes time of each "
            "token; start Ray with %s.",
            " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items()),
        )
    if alone or os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        return replicas
    front = serve.deployment(
        max_ongoing_requests=1_000, ray_actor_options={"num_cpus": 0}, max_surge_percent=100,
        logging_config=_LOGGING,
    )(Front)  # fmt: skip
    return replicas._with_ingress_request_router(front.bind(replicas))


def n_threads(models: Sequence[tuple[str, ModelConfig]]) -> int:
    """Return how many processors a replica of these models takes."""
    return max(one.loading.n_threads or 1 for _, one in models)


def check_room(n_replicas: int, n_cpus: int) -> None:
    """Refuse what the nodes of this cluster have no room for.

    Raises:
        SteerplugError: there is too little.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    room = [(node["NodeManagerAddress"], int(node["Resources"].get("CPU", 0))) for node in nodes]
    if sum(n // n_cpus for _, n in room) < n_replicas:
        listed = ", ".join(f"{name} has {n}" for name, n in room)
        raise SteerplugError(
            f"{n_replicas} replicas of {n_cpus} processors each have no room (node {listed}); ask "
            "for fewer by --replicas, or give each fewer by --n-threads."
        )
