"""The models of a server, loaded; they give way to one another, and are freed in the end."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from steerplug.server.config import ModelConfig
from steerplug.server.models import Models, check_names
from steerplug.server.served import Served
from steerplug.session import Session
from steerplug.session.activity import Activity
from steerplug.store.store import Store


@contextmanager
def opened(
    models: Sequence[tuple[str, ModelConfig]], store: Store | None = None
) -> Iterator[Models]:
    """Load models, each by its reference and how it is served.

    Raises:
        ModelNotFound, ModelError: one is not there, cannot be steered, or not be loaded so.
        SteerplugError: two are called the same, or a preset that one names is not there.
    """
    check_names([one.name for _, one in models])
    activity = Activity()
    with ExitStack() as at_the_end:
        loaded = []
        for reference, one in models:
            session = Session(
                reference, activity=activity, store=store, **vars(one.sizes), **vars(one.loading)
            )
            at_the_end.callback(session.close)
            loaded.append(Served(session, one))
        yield Models(loaded)
