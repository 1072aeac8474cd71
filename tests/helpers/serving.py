"""What tests of the server share: one model for all of them, and a real server on a real socket."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx

from steerplug.server.config import Config, ModelConfig
from steerplug.server.models import Models
from steerplug.server.serve import Server, listen
from steerplug.server.served import Served
from steerplug.server.state import ServerState
from steerplug.session import Session

NAME = "smollm2"
PIRATE = f"{NAME}@pirate"
QUESTION = [{"role": "user", "content": "What is rain?"}]
SHORT = {"model": NAME, "messages": QUESTION, "max_tokens": 12, "temperature": 0}


@cache
def session() -> Session:
    """The model of all server tests; presets that ship with it are on offer."""
    return Session(NAME, n_ctx=512, n_cells=2048, n_threads=1)


def state(own: Session, config: Config = Config(), **of_model: Any) -> ServerState:  # noqa: B008
    """Return what a server of one model shares."""
    one = ModelConfig(**{"name": NAME, **of_model})
    return ServerState(Models([Served(own, one)]), config)


@contextmanager
def served(own: Session | None = None, **config: Any) -> Iterator["Client"]:
    """Run a server on a free port, of all tests' model or their own; its engine stays open."""
    of_model = {name: config.pop(name) for name in ("steer", "compile") if name in config}
    setup = Config(port=0, **{"grace": 0.5, **config})
    with running(state(own or session(), setup, **of_model)) as client:
        yield client


@contextmanager
def running(serving: ServerState) -> Iterator["Client"]:
    """Run a server on a free port; its engines stay open."""
    listening = listen(serving.config)
    server = _Lasting(serving)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    host, port = listening.getsockname()[:2]
    with Client(host, port, serving) as client:
        yield client
    server.should_exit = True
    thread.join(120)
    assert not thread.is_alive()
    listening.close()


class _Lasting(Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._serving.stopping = True
        await super(Server, self).shutdown(sockets)


class Client(httpx.Client):
    """A client of a server under test."""

    def __init__(self, host: str, port: int, serving: ServerState) -> None:
        self.address, self.serving = (host, port), serving
        self.root = f"http://{host}:{port}"
        super().__init__(base_url=self.root, timeout=60)

    @property
    def session(self) -> Session:
        """The first model of the server."""
        return next(iter(self.serving.models)).session

    def chat(self, **body: Any) -> httpx.Response:
        """Ask for a short greedy reply, unless `body` says otherwise."""
        return self.post("/v1/chat/completions", json={**SHORT, **body})

    def complete(self, **body: Any) -> httpx.Response:
        """Ask how a text goes on."""
        said = {"model": NAME, "prompt": "Rain is", "max_tokens": 8, "temperature": 0, **body}
        return self.post("/v1/completions", json=said)

    def is_healthy(self) -> bool:
        """Whether the server is up, and answers."""
        return self.get("/health").json() == {"status": "ok"} and self.chat().status_code == 200


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of a whole stream, which must end in [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, done = [line for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def told(response: httpx.Response) -> str:
    """Return the sentence of a refusal, which must have OpenAI's form."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])
