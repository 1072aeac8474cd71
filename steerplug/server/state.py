"""What the endpoints share: the models on offer, the set-up, the counts."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from steerplug.errors import SteerplugError
from steerplug.server.config import Config
from steerplug.server.dialect import Dialect
from steerplug.server.errors import Refused, envelope, status_of
from steerplug.server.metrics import Metrics
from steerplug.server.models import Models
from steerplug.server.served import Served
from steerplug.server.steering_choice import SteeringChoice
from steerplug.server.stream import PartStream
from steerplug.session.receipt import Reply

log = logging.getLogger("steerplug.server")

STOPPED = Refused("the server is stopping; try again in a moment.", 503)

_LOOK_AGAIN = 2.0


@dataclass
class ServerState:
    """A server's models, and how it is.

    Args:
        models: what is on offer; their sessions stay open when the server ends.
        config: how the server is set up.
    """

    models: Models
    config: Config
    metrics: Metrics = field(init=False)
    started: float = field(init=False, default_factory=time.time)
    stopping: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.models)

    async def counts(self) -> bytes:
        """Return what is counted, in Prometheus' text format."""
        return self.metrics.text()

    @property
    def is_ready(self) -> bool:
        """Whether a request would be answered now."""
        return not self.stopping and all(served.session.engine.is_open for served in self.models)

    async def keep_looking(self) -> None:
        """Notice for ever what changes in the library."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN)
            for served in self.models:
                try:
                    await asyncio.to_thread(served.look_again)
                except (SteerplugError, OSError) as error:
                    log.warning("the presets cannot be read: %s", error)

    def stream(
        self, request: Request, parts: AsyncGenerator[bytes, None], headers: Mapping[str, str],
        dialect: Dialect,
    ) -> PartStream:  # fmt: skip
        """Return a stream of parts that ends as its clients expect, whatever happens."""
        parts = self._to_the_end(parts, dialect, request.state.noted)
        return PartStream(parts, dialect, headers, self.config.heartbeat)

    async def _to_the_end(
        self, parts: AsyncGenerator[bytes, None], dialect: Dialect, noted: dict[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(parts):
                async for part in parts:
                    yield part
        except Exception as error:
            problem = envelope(self.reason(error))
            noted["error"] = problem["error"]["message"]
            yield dialect.part(dialect.broken(problem))
        if dialect.end:
            yield dialect.end

    def reason(self, error: Exception) -> Exception:
        """Return what a client is told of an error; nobody failed where the server is stopping."""
        return STOPPED if self.stopping and status_of(error) >= 500 else error

    def note_asked(self, request: Request, **texts: Any) -> None:
        """Note what was asked for the log, if the server was told to log texts."""
        if self.config.log_text:
            request.state.noted.update(texts)

    def note(
        self, request: Request, served: Served, choice: SteeringChoice, replies: list[Reply]
    ) -> None:
        """Note what was answered for the log; texts only if the server was told to."""
        self.metrics.count_replies(served, replies)
        facts: dict[str, Any] = {
            "model": served.name,
            "steering": choice.mix,
            "carrier": choice.carrier,
            "carrier_tokens": replies[0].receipt.prompt_tokens,
            "digest": choice.digest[:16],
            "prompt_tokens": replies[0].usage.prompt_tokens,
            "cached_tokens": replies[0].usage.cached_tokens,
            "completion_tokens": sum(reply.usage.completion_tokens for reply in replies),
            "finish_reasons": [reply.finish_reason for reply in replies],
        }
        if self.config.log_text:
            facts["replies"] = [reply.text for reply in replies]
        request.state.noted.update(facts)
