"""A model opened for a command, and what its presets are on it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from steerplug.commands.building import Building
from steerplug.commands.output import say
from steerplug.engine.loading import DEFAULT, Loading
from steerplug.errors import SteeringError

if TYPE_CHECKING:
    from steerplug.build import Built
    from steerplug.preset import Preset
    from steerplug.preset.carrier import Carrier
    from steerplug.session import Session
    from steerplug.session.resolve import Resolved


@contextmanager
def opened(model: str, loading: Loading = DEFAULT) -> Iterator["Session"]:
    """Open a model, and free it in the end."""
    from steerplug.session import Session

    session = Session(model, **vars(loading))
    try:
        yield session
    finally:
        session.close()


def prepare(session: "Session", words: str, carrier: "Carrier" = "auto") -> "Resolved":
    """Return what a mix means on a model, and say which presets their prompts carry unasked."""
    from steerplug.session.carrying import NOT_COMPILED

    resolved = session.resolve(words, carrier)
    for applied in resolved.ingredients:
        if applied.reason == NOT_COMPILED:
            cure = f"`steerplug build {applied.name} -m MODEL` makes it steering, --quick soon"
            say(f"{applied.name} is carried by its prompt: {applied.reason}. {cure}.")
        elif applied.reason:
            cure = "--carrier steering takes it nevertheless"
            say(f"{applied.name} is carried by its prompt: its steering {applied.reason}. {cure}.")
    return resolved


def compiled(session: "Session", words: str, *, quick: bool = False) -> "Resolved":
    """Return the steering of a mix; what is not compiled is built, showing how far it is.

    Args:
        session: the model.
        words: the mix.
        quick: whether to build by a quick fit.
    """
    from steerplug.library.recipe import Recipe

    recipe = Recipe.read(words)
    with Building(learning(session, words)) as session.report:
        for _, file in recipe.parts:
            if file.preset is not None:
                fitted(session, file.preset, quick=quick)
    return session.resolve(recipe, "steering")


def fitted(session: "Session", preset: "Preset", *, quick: bool = False) -> "Built":
    """Return the steering of a preset, of a quick fit or a full one; if there is none, it is built.

    What is damaged is built again. What is built is of a full fit, unless `quick`.
    """
    with suppress(SteeringError):
        if built := session.compiled(preset):
            return built
    return session.build(preset, quick=quick)


def learning(session: "Session", preset: str) -> str:
    """Return what to say when a build begins."""
    return (
        f"Learning {preset} from {session.model.path.name}; later runs find it in "
        f"{session.store.folder} and start at once."
    )
