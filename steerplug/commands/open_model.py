"""A model opened for a command, with the presets it needs built before the first token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steerplug.commands.output import Building
from steerplug.engine.loading import DEFAULT, Loading

if TYPE_CHECKING:
    from steerplug.session import Session
    from steerplug.session.resolve import Resolved


@contextmanager
def opened(
    model: str, steering: str = "none", loading: Loading = DEFAULT
) -> Iterator["Session"]:
    """Open a model, build what `steering` needs, and free the model in the end."""
    from steerplug.session import Session

    session = Session(model, **vars(loading))
    try:
        prepare(session, steering)
        yield session
    finally:
        session.close()


def prepare(session: "Session", steering: str) -> "Resolved":
    """Return what a mix means; what was never built for this model is, showing how far it is."""
    from steerplug.session.resolve import Resolved

    with Building(learning(session, steering)) as session.report:
        return Resolved(*session.steering(steering))


def learning(session: "Session", preset: str) -> str:
    """Return what to say when a build begins."""
    return (
        f"Learning {preset} from {session.model.path.name}; later runs find it in "
        f"{session.store.folder} and start at once."
    )
