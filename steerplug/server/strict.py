"""Reading a request's JSON with a parser that refuses what would do harm later.

No endless nesting, no NaN, no halves of characters: none of these can reach a schema, a template or
a sampler.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from steerplug.server.errors import Refused

_OF_CURL = ("", "application/x-www-form-urlencoded")
"""What `curl -d` says of any body, and Ollama's examples with it."""

_OF_PAGES = ("origin", "sec-fetch-site")
"""What browsers add: a page of a stranger could send such a body without being allowed to."""


class StrictRequest(Request):
    """A request whose body must be plain JSON."""

    async def json(self) -> Any:
        """Return the body as values."""
        try:
            return from_json(await self.body(), allow_inf_nan=False, cache_strings="none")
        except ValueError as error:
            raise Refused(f"the body is not JSON ({str(error)[:200]}); send JSON.") from None


class StrictRoute(APIRoute):
    """A route that reads bodies as `StrictRequest` does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            scope = request.scope
            if request.method == "POST" and content != "application/json":
                if content not in _OF_CURL or any(name in request.headers for name in _OF_PAGES):
                    raise Refused("send the body as Content-Type: application/json.", 415)
                others = [each for each in scope["headers"] if each[0] != b"content-type"]
                scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
            return await answer(StrictRequest(scope, request.receive))

        return strictly
