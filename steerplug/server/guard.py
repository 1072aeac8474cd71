"""What a request must pass before anything reads it: who asks, how much, how many at a time.

It also notes one line for the log per request. Texts are no part of it.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steerplug.server.config import Config
from steerplug.server.dialect import dialect_of
from steerplug.server.errors import Refused, envelope, status_of
from steerplug.server.state import STOPPED, ServerState

log = logging.getLogger("steerplug.server")

_WORK = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/api/chat", "/api/generate"
)  # fmt: skip
_ADMIN = {
    "/steering": "defaults cannot be changed here; start the server with --admin-key, and send it.",
    "/steering/compile": "presets cannot be compiled from here; start the server with --compile "
    "all, or with --admin-key, and send it.",
}
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """The outermost part of a server.

    Args:
        app: what answers.
        serving: the model, and how the server is set up.
        open_paths: what may be read without a key.
    """

    def __init__(self, app: ASGIApp, serving: ServerState, open_paths: Sequence[str]) -> None:
        self._app, self._serving = app, serving
        self._open, self._keys = frozenset(open_paths), Keys(serving.config)
        self._n_working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        noted = {"request": uuid.uuid4().hex[:12], "method": scope["method"]}
        noted["path"], begin, status = scope["path"][:200], time.perf_counter(), 499

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = noted["request"]
            await send(message)

        try:
            await self._answer(scope, receive, watched, noted)
        finally:
            seconds = time.perf_counter() - begin
            self._serving.metrics.count(_route(scope), status, seconds)
            quiet = noted["path"] in ("/health", "/readyz", "/metrics") and status == 200
            log.log(
                logging.DEBUG if quiet else logging.INFO, "request",
                extra={**noted, "status": status, "seconds": round(seconds, 3)},
            )  # fmt: skip

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, noted: dict[str, Any]
    ) -> None:
        works = scope["path"] in _WORK and scope["method"] == "POST"
        try:
            partition = self._check(scope)
            scope.setdefault("state", {}).update(noted=noted, partition=partition)
            if works:
                self._check_room()
                self._n_working += 1
            try:
                if scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
                    receive = await self._read(scope, receive)
                await self._app(scope, receive, send)
            finally:
                self._n_working -= works
        except Refused as error:
            body, status = dialect_of(scope["path"]).error(envelope(error)), status_of(error)
            headers = {"retry-after": "1"} if status in (429, 503) else {}
            headers |= {"www-authenticate": "Bearer"} if status == 401 else {}
            await JSONResponse(body, status, headers)(scope, receive, send)

    def _check(self, scope: Scope) -> str:
        """Return the partition of who asks, if they may."""
        headers, config = Headers(scope=scope), self._serving.config
        if config.is_local and not config.api_keys:
            # A web page whose name was made to point here would be let in by its address.
            host = headers.get("host", "").lower()
            if not any(host == name or host.startswith(f"{name}:") for name in _LOCAL):
                raise Refused(f"this server is not `{host[:80]}`; ask localhost.", 403)
        if scope["path"] in self._open or scope["method"] == "OPTIONS":
            return ""
        return self._keys.check(headers.get("authorization", ""), scope["path"], scope["method"])

    def _check_room(self) -> None:
        if self._serving.stopping:
            raise STOPPED
        most = self._serving.config.limits.requests
        if self._n_working >= most:
            raise Refused(
                f"{most} requests are being answered, as many as this server takes; try again in "
                "a moment.", 429, "rate_limit_exceeded",
            )  # fmt: skip

    async def _read(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body, if it is not too long or too slow, and return what hands it out again."""
        limits = self._serving.config.limits
        too_long = Refused(f"the body is longer than {limits.body} bytes; send a shorter one.", 413)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > limits.body):
            raise too_long
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(limits.upload):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused("the client hung up before its request was whole.", 400)
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limits.body:
                        raise too_long
        except TimeoutError:
            raise Refused(
                f"the body did not come in within {limits.upload:g} seconds; send it again.", 408
            ) from None
        whole: list[Message] = [{"type": "http.request", "body": bytes(body)}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        return again


class Keys:
    """Who may ask; no comparison takes longer for a key that is nearly right."""

    def __init__(self, config: Config) -> None:
        self._api = [_digest(key) for key in config.api_keys]
        self._admin = _digest(config.admin_key) if config.admin_key else None
        self._share_cache = config.share_cache

    def check(self, authorization: str, path: str, method: str) -> str:
        """Return the partition in which a request's prompts are cached.

        Raises:
            Refused: there is no key, or not the right one.
        """
        given = _digest(re.sub("(?i)^bearer ", "", authorization).strip())
        is_admin = self._admin is not None and hmac.compare_digest(given, self._admin)
        known = [hmac.compare_digest(given, key) for key in self._api]
        if path in _ADMIN and method == "POST" and not is_admin:
            if self._admin is None:
                raise Refused(_ADMIN[path], 403)
            raise Refused("this needs the admin key.", 401, "invalid_api_key")
        if self._api and not (any(known) or is_admin):
            raise Refused(
                "an API key is needed, as in `Authorization: Bearer KEY`, and this is none.",
                401, "invalid_api_key",
            )  # fmt: skip
        return "" if self._share_cache else given.hex()[:32]


def _route(scope: Scope) -> str:
    """Return the route that a request took; clients can ask for any path, and counts are kept."""
    route = getattr(scope.get("route"), "path", None)
    return route or (scope["path"] if scope["path"] in _WORK else "other")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
