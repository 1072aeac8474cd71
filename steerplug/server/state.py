"""What the endpoints share: the model, the presets on offer, the set-up, the counts."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from steerplug.errors import SteerplugError
from steerplug.preset.mix import Ingredient, format_mix
from steerplug.server.catalog import Catalog
from steerplug.server.config import Config
from steerplug.server.dialect import Dialect
from steerplug.server.errors import Refused, envelope, status_of
from steerplug.server.metrics import Metrics
from steerplug.server.requests import Body
from steerplug.server.steering_choice import Chooser, SteeringChoice
from steerplug.server.stream import PartStream
from steerplug.session import Session
from steerplug.session.receipt import Reply

log = logging.getLogger("steerplug.server")

STOPPED = Refused("the server is stopping; try again in a moment.", 503)

_LOOK_AGAIN = 2.0


@dataclass
class ServerState:
    """One model being served.

    Args:
        session: the model; it stays open when the server ends.
        config: how the server is set up.
    """

    session: Session
    config: Config
    catalog: Catalog = field(init=False)
    chooser: Chooser = field(init=False)
    metrics: Metrics = field(init=False)
    started: float = field(init=False, default_factory=time.time)
    stopping: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.catalog = Catalog(self.session)
        self.chooser = Chooser(self.session, self.catalog, self.config.name, self.config.steer)
        self.metrics = Metrics(self.session.engine)
        for name in self.config.to_compile:
            self.compile(name)
        self._compile_all()

    def compile(self, name: str) -> None:
        """Have a preset compiled in idle time, unless it is.

        Raises:
            Refused: there is no preset of that name.
        """
        if name not in self.catalog.listed:
            self.catalog.check(name)
        self.session.compile(format_mix((Ingredient(name),)), again=True)

    def _compile_all(self) -> None:
        """Have all presets compiled that are not, if the server was told to; each is tried once."""
        if self.config.compiles_all:
            tried = self.session.compiler.jobs
            for name, offer in self.catalog.listed.items():
                built = offer.carrying.built
                if (built is None or built.is_quick) and name not in tried:
                    self.compile(name)

    async def keep_looking(self) -> None:
        """Notice for ever what changes in the library."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN)
            try:
                await asyncio.to_thread(self.catalog.refresh)
                await asyncio.to_thread(self._compile_all)
            except (SteerplugError, OSError) as error:
                log.warning("the presets cannot be read: %s", error)

    async def choose(self, request: Request, body: Body) -> SteeringChoice:
        """Return how to steer the reply to a request; errors are those of `Chooser.choose`."""
        headers = request.headers
        return await asyncio.to_thread(
            self.chooser.choose, body.model, body.steering, headers.get("x-steering") or None,
            (body.carrier, headers.get("x-steering-carrier") or None),
        )  # fmt: skip

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

    def note(self, request: Request, choice: SteeringChoice, replies: list[Reply]) -> None:
        """Note what was answered for the log; texts only if the server was told to."""
        self.metrics.count_replies(replies)
        facts: dict[str, Any] = {
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
