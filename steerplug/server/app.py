"""The web application: endpoints, and what surrounds them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from steerplug.errors import SteerplugError
from steerplug.server import (
    admin,
    chat,
    completions,
    embeddings,
    llamacpp,
    ollama,
    responses_api,
)
from steerplug.server.dialect import dialect_of
from steerplug.server.errors import describe, envelope, explain, status_of
from steerplug.server.guard import Guard
from steerplug.server.state import ServerState
from steerplug.server.strict import StrictRoute
from steerplug.version import __version__

log = logging.getLogger("steerplug.server")

PAGE = Path(__file__).parent / "playground"
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(serving: ServerState) -> FastAPI:
    """Return the application that serves models."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(serving.keep_looking())
        try:
            yield
        finally:
            looking.cancel()

    app = FastAPI(
        title="steerplug", version=__version__, lifespan=lifespan,
        docs_url=None, redoc_url=None,  # these pages load scripts of other sites
    )  # fmt: skip
    app.router.route_class = StrictRoute
    for part in (admin, chat, completions, embeddings, llamacpp, ollama, responses_api):
        part.add_to(app, serving)
    _add_operation(app, serving)
    files = _add_page(app)
    _add_errors(app, serving)
    app.add_middleware(Guard, serving=serving, open_paths=["/health", "/readyz", *files])
    if serving.config.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=serving.config.origins, allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-steering-digest", "x-steering-carrier", "x-request-id"],
        )  # fmt: skip
    return app


def _add_operation(app: FastAPI, serving: ServerState) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Response:
        """Say whether requests are taken."""
        if serving.stopping:
            return JSONResponse({"status": "stopping"}, 503)
        named = {"models": serving.models.names} if serving.models.are_several else {}
        return JSONResponse({"status": "ok", **named})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz")
    async def readyz() -> Response:
        """Say whether a request would be answered now."""
        ready = serving.is_ready
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return counts in Prometheus' text format."""
        return Response(await serving.counts(), media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> list[str]:
    """Serve the playground's files, and return their paths."""
    files = {f"/{path.name}": path for path in PAGE.iterdir() if path.is_file()}
    files["/"] = PAGE / "index.html"
    headers = {
        "content-security-policy": _CONTENT_POLICY, "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer", "cache-control": "no-cache",
    }  # fmt: skip

    async def file(request: Request) -> Response:
        return FileResponse(files[request.url.path], headers=headers)

    for path in files:
        app.add_api_route(path, file, methods=["GET", "HEAD"], include_in_schema=False)
    return list(files)


def _add_errors(app: FastAPI, serving: ServerState) -> None:
    async def ours(request: Request, error: Exception) -> Response:
        error = serving.reason(error)
        return _answer(request, envelope(error), status_of(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, SteerplugError):
            return await ours(request, error.__cause__)
        message = str(error.detail)
        if error.status_code in (404, 405):
            asked = f"{request.method} {request.url.path[:80]}"
            message = f"there is no {asked} here; GET /openapi.json lists what there is."
        body = describe(message, error.status_code)
        return _answer(request, body, error.status_code, error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _answer(request, explain(error), 400)

    app.add_exception_handler(SteerplugError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, ours)


def _answer(
    request: Request, body: dict[str, Any], status: int, headers: Any = None
) -> Response:
    busy = {"retry-after": "1"} if status in (429, 503) else {}
    body = dialect_of(request.url.path).error(body)
    return JSONResponse(body, status, {**busy, **dict(headers or {})})
