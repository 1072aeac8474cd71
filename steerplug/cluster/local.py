"""Replicas on this machine, for those who know no Ray: it is started for them, and ended.

`environment.prepare` comes before this is imported.
"""

import logging
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.serve import Application

from steerplug.cluster import environment
from steerplug.cluster.application import application, check_room, n_threads
from steerplug.cluster.starting import started
from steerplug.engine.processors import n_processors
from steerplug.errors import SteerplugError
from steerplug.server.config import Config, ModelConfig
from steerplug.server.log import log_to_stderr
from steerplug.server.models import check_names
from steerplug.server.serve import listen

log = logging.getLogger("steerplug.server")

_MEMORY = 100 * 2**20
"""Bytes of Ray's object store, which holds nothing of ours."""

_HERE = {
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # Ray's 0.1 is half of what its controller takes
    "REPORTER_UPDATE_INTERVAL_MS": "60000",  # what Ray measures of the machine, which nobody reads
}

_SENTENCE = re.compile(r"(?:steerplug\.[\w.]+\.)(?:\w*Error|ModelNotFound|Refused): (.+)")


def serve_here(setup: Config, models: Sequence[tuple[str, ModelConfig]]) -> None:
    """Serve models by replicas on this machine until told to stop by a signal.

    Raises:
        SteerplugError: the address cannot be had, there is no room, or a replica cannot be made.
    """
    check_names([one.name for _, one in models])
    with listen(setup) as listening:  # or refuse it before anything is loaded
        host, port = listening.getsockname()[:2]
    log_to_stderr()
    assert setup.replicas is not None
    models = [(reference, _with_threads(one, setup.replicas)) for reference, one in models]
    built = application(setup, models, setup.grace, alone=setup.replicas == 1)
    with _ray_here():
        check_room(setup.replicas, n_threads(models))
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        run(built)
        shown = f"[{host}]" if ":" in host else host
        names = [one.name for _, one in models]
        log.info("serving", extra={"address": f"http://{shown}:{port}", "models": names})
        _wait_for_a_signal()
        log.info("stopping")
        serve.shutdown()


def run(built: Application) -> None:
    """Have the Ray Serve of this process run an application; return when it is ready.

    Raises:
        SteerplugError: a replica cannot be made; the sentence is that replica's.
    """
    try:
        serve.run(built, name="steerplug", blocking=False)
    except RuntimeError as error:
        said = _SENTENCE.findall(str(error))
        raise SteerplugError(said[-1] if said else str(error).splitlines()[0]) from None


@contextmanager
def _ray_here() -> Iterator[None]:
    for name, value in _HERE.items():
        os.environ.setdefault(name, value)
    environment.choose_ports()
    own = {"include_dashboard": False, "object_store_memory": _MEMORY}
    with started("local", _node_ip_address="127.0.0.1", **own):
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        _end_what_nobody_asks()
        yield


def _end_what_nobody_asks() -> None:
    """End what Ray starts for dashboards, drivers and clouds, and gives no way to leave out."""
    node: Any = ray._private.worker._global_node
    for end in (node.kill_log_monitor, node.kill_monitor, node.kill_dashboard):
        end(check_alive=False)


def _with_threads(one: ModelConfig, n_replicas: int) -> ModelConfig:
    """Return how a model is served, by its share of this machine's processors unless it says."""
    share = max(n_processors() // n_replicas, 1)
    loading = one.loading
    return replace(one, loading=replace(loading, n_threads=loading.n_threads or share))


def _wait_for_a_signal() -> None:
    told = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: told.set())
    told.wait()
