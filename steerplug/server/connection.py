"""A client's connection: it has only so long to ask, and to read what it is told.

uvicorn itself limits only the pause between two requests. Who opens a connection and says nothing,
sends a request byte by byte, or leaves an answer unread would hold it for ever. Nor does it limit a
request's head, or answer in JSON what is no request. What is added here builds on the insides of
its protocol, so pyproject.toml names the versions that have them.
"""

import asyncio
import json
import logging
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from steerplug.server.config import Limits
from steerplug.server.errors import describe

log = logging.getLogger("steerplug.server")


class Connection(HttpToolsProtocol):
    """A connection that is cut off when its client takes too long."""

    limits: ClassVar[Limits]
    _asking: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _n_head: int | None = None
    """Bytes of a head that is still coming in."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request, unless there are too many clients."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            log.warning("more than %d connections; one is refused", self.limits.connections)
            transport.abort()
        self._wait(self.limits.upload)

    def data_received(self, data: bytes) -> None:
        """Read on, unless it is the head of a request that is too long."""
        super().data_received(data)
        if self._n_head is not None:
            self._n_head += len(data)
            if self._n_head > self.limits.head:
                self._refuse(431, f"the head is longer than {self.limits.head} bytes; shorten it.")

    def on_message_begin(self) -> None:
        """Count what comes until the body."""
        super().on_message_begin()
        self._n_head = 0

    def on_headers_complete(self) -> None:
        """Wait for the body; the guard says that it is late before the connection is cut off."""
        super().on_headers_complete()
        self._n_head = None
        self._wait(2 * self.limits.upload)

    def on_message_complete(self) -> None:
        """Wait no longer, unless the request was answered before it was whole."""
        super().on_message_complete()
        self._wait_if_idle()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._wait_if_idle()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._reading = self.loop.call_later(self.limits.unread, self._cut_off, "did not read")

    def resume_writing(self) -> None:
        """Wait no longer."""
        super().resume_writing()
        if self._reading:
            self._reading.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        for timer in (self._asking, self._reading):
            if timer:
                timer.cancel()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  says no more than ours
        """Say that this is no request."""
        self._refuse(400, "this cannot be read as HTTP; send an HTTP/1.1 request.")

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps(describe(message, status)).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self._n_head = None
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()

    def _wait_if_idle(self) -> None:
        if self.cycle.response_complete:
            self._wait(self.limits.upload)
        elif self._asking:
            self._asking.cancel()

    def _wait(self, seconds: float) -> None:
        if self._asking:
            self._asking.cancel()
        self._asking = self.loop.call_later(seconds, self._cut_off, "sent no whole request")

    def _cut_off(self, why: str) -> None:
        log.info("a client was cut off: it %s in time", why)
        self.transport.abort()


def limited(to: Limits) -> type[Connection]:
    """Return connections with these limits."""

    class Limited(Connection):
        limits = to

    return Limited
