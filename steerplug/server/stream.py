"""A reply as server-sent events: it shows that it is alive, and ends when its reader leaves."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from steerplug.server.merge_streams import unless_gone

_ALIVE = b": still here\n\n"


class EventStream(StreamingResponse):
    """A stream of events.

    Args:
        events: whole events as bytes; closed in the end, whatever happens.
        headers: what the response says besides.
        heartbeat: seconds from one sign of life to the next.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str], heartbeat: float
    ) -> None:
        as_it_comes = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, headers={**headers, **as_it_comes})
        self._events, self._heartbeat = events, heartbeat

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
            await self._events.aclose()

    async def _beat(self, send: Send) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            await send({"type": "http.response.body", "body": _ALIVE, "more_body": True})
