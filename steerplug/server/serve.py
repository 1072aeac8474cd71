"""Running a server until it is told to stop; replies then have time to end."""

import asyncio
import logging
import socket
from collections.abc import Sequence

import uvicorn

from steerplug.errors import SteerplugError
from steerplug.server.app import create_app
from steerplug.server.config import Config, ModelConfig
from steerplug.server.connection import limited
from steerplug.server.log import log_to_stderr
from steerplug.server.models import check_names
from steerplug.server.opened import opened
from steerplug.server.state import ServerState

log = logging.getLogger("steerplug.server")

_LAST_WORDS = 2.0


def listen(config: Config) -> socket.socket:
    """Return the socket that a server listens on.

    Raises:
        SteerplugError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        reason = reason.partition(" (while ")[0]  # Python says there what it did
        raise SteerplugError(
            f"{config.host}:{config.port} cannot be listened on ({reason}); choose another --port "
            "or --host."
        ) from None


class Server(uvicorn.Server):
    """A server; its streams may go on for a while when it is told to stop.

    Args:
        serving: the models, and how to serve them. Their engines are closed in the end.
    """

    def __init__(self, serving: ServerState) -> None:
        self._serving = serving
        super().__init__(
            uvicorn.Config(
                create_app(serving), log_config=None, access_log=False, server_header=False,
                lifespan="on", ws="none", http=limited(to=serving.config.limits),
                timeout_graceful_shutdown=int(serving.config.grace + _LAST_WORDS) + 1,
            )
        )  # fmt: skip

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests."""
        await super().startup(sockets)
        host, port = (sockets or self.servers[0].sockets)[0].getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        models = self._serving.models.ids()
        log.info("serving", extra={"address": f"http://{host}:{port}", "models": models})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, let running ones finish within the grace, then cut them off."""
        self._serving.stopping = True

        def close() -> None:
            for served in self._serving.models:
                served.session.engine.close()

        async def cut_off() -> None:
            await asyncio.sleep(self._serving.config.grace)
            await asyncio.to_thread(close)  # each stream says so, and ends

        cutting = asyncio.create_task(cut_off())
        await super().shutdown(sockets)
        cutting.cancel()
        await asyncio.to_thread(close)


def serve(serving: ServerState, sockets: Sequence[socket.socket]) -> None:
    """Serve until told to stop by a signal."""
    Server(serving).run(sockets=list(sockets))


def serve_models(setup: Config, models: Sequence[tuple[str, ModelConfig]]) -> None:
    """Load models, each by its reference and how it is served, and serve them.

    Raises:
        SteerplugError: the address cannot be had, or a model not be served so.
    """
    if setup.presets_at is not None:
        raise SteerplugError(
            "--presets-at is for replicas; say how many by --replicas, or set STEERPLUG_PRESETS to "
            "a folder."
        )
    check_names([one.name for _, one in models])
    with listen(setup) as listening, opened(models) as on_offer:
        log_to_stderr()
        serve(ServerState(on_offer, setup), [listening])
