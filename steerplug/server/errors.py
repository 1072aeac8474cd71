"""What a client is told when something goes wrong: OpenAI's envelope, with the right status."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

from steerplug.errors import (
    ContextOverflow,
    EngineBusy,
    PresetError,
    ReplyTimeout,
    SteerplugError,
    StoreError,
    StrengthError,
)
from steerplug.files.problems import place_of
from steerplug.server.aliases import ALIASES

log = logging.getLogger("steerplug.server")

_CODES: tuple[tuple[type[SteerplugError], str], ...] = (
    (ContextOverflow, "context_length_exceeded"),
    (EngineBusy, "server_busy"),
    (ReplyTimeout, "timeout"),
    (StrengthError, "invalid_steering"),
    (PresetError, "invalid_steering"),
)


class Refused(SteerplugError):
    """A request that the server does not take.

    Args:
        message: what is wrong, and the cure.
        status: the HTTP status.
        code: one word for programs.
        param: which field of the body is wrong.
    """

    def __init__(
        self, message: str, status: int = 400, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def status_of(error: BaseException) -> int:
    """Return the HTTP status of an error."""
    return error.status if isinstance(error, SteerplugError) else 500


def envelope(error: BaseException) -> dict[str, Any]:
    """Return an error as OpenAI's clients expect it; what is not for clients goes to the log."""
    if not isinstance(error, SteerplugError) or isinstance(error, StoreError):
        log.error("a request failed", exc_info=error)
        message = "the server failed to answer; its log says why."
    else:
        message = str(error)
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    return describe(
        message, status_of(error), getattr(error, "code", code), getattr(error, "param", None)
    )


def explain(error: RequestValidationError) -> dict[str, Any]:
    """Return OpenAI's envelope for a body that is not as it should be: its first problem.

    Where a field has alternatives, pydantic tells the problem of each; what came goes furthest in
    the one that was meant.
    """
    problems = [
        (place_of(_written(problem["loc"][1:], error.body), problem["type"], error.body), problem)
        for problem in error.errors()
    ]
    first, _ = problems[0]
    here = [(place, problem) for place, problem in problems if place[: len(first)] == first]
    place, problem = max(here, key=lambda at: (len(at[0]), not at[1]["type"].endswith("_type")))
    value = "" if problem["type"] == "missing" else f"; it is {problem['input']!r:.80}"
    more = f" ({len(problems) - len(here)} more)" if len(problems) > len(here) else ""
    name = ".".join(map(str, place))
    cure = "; GET /v1/models lists all" if name == "model" and not value else ""
    message = f"{name or 'the body'}: {problem['msg']}{value}{cure}{more}."
    return describe(message, 400, param=name or None)


def _written(loc: Sequence[str | int], body: Any) -> Sequence[str | int]:
    """Return where a problem is, by the name that the client gave the field."""
    if not loc or not isinstance(body, Mapping) or loc[0] in body:
        return loc
    return (next((alias for alias in body if ALIASES.get(alias) == loc[0]), loc[0]), *loc[1:])


def describe(
    message: str, status: int, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return OpenAI's envelope for a message."""
    if status == 429:
        kind = "rate_limit_error"
    else:
        kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
