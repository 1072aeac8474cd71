"""Ray's start, which fails in a sentence: Ray raises plain exceptions where it takes too long."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from steerplug.cluster.failures import words
from steerplug.errors import SteerplugError


@contextmanager
def started(address: str | None, **settings: Any) -> Iterator[None]:
    """Hold a connection to a cluster, or a Ray of this machine alone.

    Args:
        address: the cluster's; "local", or None, starts Ray here if there is none.
        settings: of `ray.init`.

    Raises:
        SteerplugError: there is no cluster at that address, or Ray does not start here.
    """
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except Exception as error:
        ray.shutdown()
        if address in (None, "local"):
            raise SteerplugError(
                f"Ray did not start on this machine ({words(error)}); try again when it has less "
                "to do, or look at `session_latest/logs` in Ray's folder."
            ) from None
        raise SteerplugError(
            f"there is no Ray cluster at {address} ({words(error)}); `ray start --head` starts "
            "one, and without --address this machine is used."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()
