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
            if request.method == "POST" and content != "application/json":
                raise Refused("send the body as Content-Type: application/json.", 415)
            return await answer(StrictRequest(request.scope, request.receive))

        return strictly
