"""steerplug's errors as LangChain's: same sentence, caught under either name.

Contract::

    ContextOverflow                  -> ContextOverflowError
    ReplyTimeout                     -> ModelTimeoutError
    any other of HTTP status 404     -> ModelNotFoundError
    any other of HTTP status 400     -> ModelInvalidRequestError
    the rest                         -> ModelAPIError, which is worth another try
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from langchain_core.exceptions import (
    ContextOverflowError,
    LangChainException,
    ModelAPIError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelTimeoutError,
)

from steerplug.errors import ContextOverflow, ReplyTimeout, SteerplugError

_OF_KIND = {ContextOverflow: ContextOverflowError, ReplyTimeout: ModelTimeoutError}
_OF_STATUS = {400: ModelInvalidRequestError, 404: ModelNotFoundError}


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Raise every `SteerplugError` of the block as a LangChain error too."""
    try:
        yield
    except SteerplugError as error:
        if isinstance(error, LangChainException):
            raise
        raise as_langchain(error) from error


def as_langchain(error: SteerplugError) -> SteerplugError:
    """Return an error of the same kind and sentence that is a LangChain error as well."""
    return _twofold(type(error))(*error.args)  # type: ignore[arg-type]  # types are hashable


@cache
def _twofold(kind: type[SteerplugError]) -> type[SteerplugError]:
    """Return the class that is both `kind` and LangChain's counterpart of it."""
    counterpart = next(
        (theirs for ours, theirs in _OF_KIND.items() if issubclass(kind, ours)),
        _OF_STATUS.get(kind.status, ModelAPIError),
    )

    def pickled(self: SteerplugError) -> tuple[Callable[..., object], tuple[object, ...]]:
        return as_langchain, (kind(*self.args),)

    namespace = {"__reduce__": pickled, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, counterpart), namespace)
