"""A reply as a stream of parts: it shows that it is alive, and ends when its reader leaves."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from steerplug.server.dialect import Dialect
from steerplug.server.merge_streams import unless_gone


class PartStream(StreamingResponse):
    """A stream of parts.

    Args:
        parts: whole parts as bytes; closed in the end, whatever happens.
        dialect: what they are spelt in.
        headers: what the response says besides.
        heartbeat: seconds from one sign of life to the next.
    """

    def __init__(
        self, parts: AsyncGenerator[bytes, None], dialect: Dialect, headers: Mapping[str, str],
        heartbeat: float,
    ) -> None:  # fmt: skip
        as_it_comes = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(
            parts, headers={**headers, **as_it_comes}, media_type=dialect.media_type
        )
        self._parts, self._alive, self._heartbeat = parts, dialect.alive, heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Say everything, unless the client hangs up."""
        await unless_gone(receive, self.stream_response(send))

    async def stream_response(self, send: Send) -> None:
        """Say everything."""
        beating = asyncio.create_task(self._beat(send))
        try:
            await super().stream_response(send)
        finally:
            beating.cancel()
            await self._parts.aclose()

    async def _beat(self, send: Send) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            await send({"type": "http.response.body", "body": self._alive, "more_body": True})
