"""A real Ray cluster of two nodes on this machine, and the application on it."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from steerplug.cluster import environment
from steerplug.engine.loading import Loading
from steerplug.server.config import Config, ModelConfig, Sizes
from tests.helpers.tiny_models import tiny_model


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


environment.choose_ports()
environment.prepare()

NAME = "tiny"
KEYS = ("key-of-ann", "key-of-bob")
PRESET = """\
schema: steerplug/preset-v1
name: {name}
teacher: {{system: "{prompt}"}}
"""
NEVER_ENDS = {"0": -100, "2": -100}
_PAUSE = 0.05
_NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
"""A replica, and room for one more or for a build: each is a process that takes long to start."""

_HEAD = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
"""What nobody looks at is not started."""


@dataclass
class Load:
    """Who asks all the time, and what they got that was no reply."""

    n_replies: int = 0
    wrong: list[str] = field(default_factory=list)


class Running:
    """The application on a cluster, and a client of it."""

    def __init__(self, cluster: Any, port: int, place: Path) -> None:
        self.cluster, self.place = cluster, place
        self.address = f"http://127.0.0.1:{port}"
        self.client = self.as_client(KEYS[0])
        self.setup = Config(
            port=port, api_keys=KEYS, share_cache=False, replicas=2, presets_at=str(place),
            grace=5.0,
        )  # fmt: skip
        self.loading = Loading(n_ctx=512, n_threads=1)
        self.compile: tuple[str, ...] = ()
        self.deploy()

    def as_client(self, key: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.address, timeout=60, headers={"authorization": f"Bearer {key}"}
        )

    def deploy(self, **changes: Any) -> None:
        """Have Ray Serve run the application so, from now on."""
        self.deploy_model(str(tiny_model("llama_untied")), **changes)

    def deploy_model(self, model: str, **changes: Any) -> None:
        """Have it run another model."""
        sizes = Sizes(n_cells=4096, n_seq=16)
        one = ModelConfig(NAME, loading=self.loading, sizes=sizes, compile=self.compile)
        from steerplug.cluster.application import application
        from steerplug.cluster.local import run

        run(application(replace(self.setup, **changes), [(model, one)]))

    def chat(self, text: str = "Hi", **body: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=asked(text, **body))

    def counts(self, name: str) -> dict[str, float]:
        """Return a metric of each replica, as one of them tells it."""
        answer = self.client.get("/metrics")
        return {
            sample.labels["replica"]: sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == f"steerplug_{name}"
        }

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the replicas."""
        raylets = [
            psutil.Process(one.process.pid)
            for node in self.cluster.list_all_nodes() for one in node.all_processes["raylet"]
        ]  # fmt: skip
        workers = [child for raylet in raylets for child in raylet.children(recursive=True)]
        return [one for one in workers if "ServeReplica:steerplug:Replica" in one.name()
                or "ServeReplica:steerplug:Replica" in " ".join(one.cmdline())]  # fmt: skip

    @contextmanager
    def under_load(self, n_clients: int = 2, n_tokens: int = 24) -> Iterator[Load]:
        """Have clients ask without a pause, and see that each reply is whole."""
        load, over = Load(), threading.Event()

        def ask(i: int) -> None:
            with self.as_client(KEYS[0]) as client:
                while not over.is_set():
                    body = asked(f"I am client {i}", max_tokens=n_tokens, logit_bias=NEVER_ENDS)
                    try:
                        answer = client.post("/v1/chat/completions", json=body)
                    except httpx.HTTPError as error:
                        load.wrong.append(repr(error))
                        continue
                    load.n_replies += 1
                    whole = f'"completion_tokens":{n_tokens},'
                    if answer.status_code != 200 or whole not in answer.text:
                        load.wrong.append(f"client {i}: {answer.status_code} {answer.text}")
                    over.wait(_PAUSE)

        clients = [threading.Thread(target=ask, args=(i,)) for i in range(n_clients)]
        for client in clients:
            client.start()
        try:
            yield load
        finally:
            over.set()
            for client in clients:
                client.join()


def asked(text: str, **body: Any) -> dict[str, Any]:
    """Return the body of a short greedy chat."""
    messages = [{"role": "user", "content": text}]
    return {"model": NAME, "messages": messages, "max_tokens": 8, "temperature": 0, **body}


def wait_until(is_so: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for what comes by itself."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERPLUG_CACHE", str(tmp_path_factory.mktemp("cache-of-nodes")))
        made = Cluster(initialize_head=True, head_node_args={**_HEAD, **_NODE})
        made.add_node(**_NODE)
    ray.init(made.address, log_to_driver=False, logging_level=logging.ERROR)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="package")
def app(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    from ray import serve

    port, place = free_port(), tmp_path_factory.mktemp("place")
    for name in ("sailor", "baker", "miner"):
        (place / f"{name}.yaml").write_text(PRESET.format(name=name, prompt=f"You are a {name}."))
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    running = Running(cluster, port, place)
    yield running
    running.client.close()
