"""A model opened for a command, and what its presets are on it."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from steerplug.commands.building import Building, ask, can_ask
from steerplug.commands.output import say
from steerplug.engine.loading import DEFAULT, Loading
from steerplug.errors import SteeringError, SteerplugError

if TYPE_CHECKING:
    from steerplug.build import Built
    from steerplug.preset import Preset
    from steerplug.preset.carrier import Carrier
    from steerplug.session import Session
    from steerplug.session.resolve import Resolved


@contextmanager
def opened(model: str, loading: Loading = DEFAULT) -> Iterator["Session"]:
    """Open a model, and free it in the end; errors meanwhile say what the user calls it."""
    from steerplug.session import Session

    session = Session(model, **vars(loading))
    try:
        yield session
    except SteerplugError as error:
        error.args = (naming(model, error),)
        raise
    finally:
        session.close()


def naming(model: str, error: SteerplugError) -> str:
    """Return what an error says, its commands with the model that the user has named."""
    return str(error).replace("-m MODEL", f"-m {shlex.quote(model)}")


def prepare(
    session: "Session", words: str, model: str, carrier: "Carrier" = "auto"
) -> "Resolved":
    """Return what a mix means on a model, and say which presets their prompts carry unasked.

    Args:
        session: the model.
        words: the mix.
        model: what the user calls the model.
        carrier: what was asked to carry it.
    """
    from steerplug.session.carrying import NOT_COMPILED

    resolved = session.resolve(words, carrier)
    for applied in resolved.ingredients:
        if applied.reason == NOT_COMPILED:
            say(
                f"{applied.name} is carried by its prompt; `{building(applied.name, model)}` makes "
                "it steering, which costs no prompt and has a strength."
            )
        elif applied.reason:
            say(
                f"{applied.name} is carried by its prompt: its steering {applied.reason}. "
                "The carrier 'steering' takes it nevertheless."
            )
    return resolved


def compiled(
    session: "Session", words: str, model: str, *, quick: bool = False
) -> "Resolved":
    """Return the steering of a mix; what is not compiled is built if somebody agrees to it.

    Args:
        session: the model.
        words: the mix.
        model: what the user calls the model.
        quick: whether to build by a quick fit.

    Raises:
        SteeringError: something is not compiled, and nobody is here to be asked.
        typer.Exit: it is not to be built.
    """
    from steerplug.library.recipe import Recipe

    recipe = Recipe.read(words)
    for ingredient, file in recipe.parts:
        if file.preset is not None:
            fitted(session, file.preset, ingredient.reference, model, quick=quick)
    return session.resolve(recipe, "steering")


def fitted(
    session: "Session", preset: "Preset", reference: str, model: str, *, quick: bool = False
) -> "Built":
    """Return the steering of one preset, as `compiled` does; `reference` is what the user said.

    What is damaged is built again.
    """
    if built := _found(session, preset):
        return built
    missing = f"{preset.name} is not compiled for {session.model.path.name}"
    if not can_ask():
        raise SteeringError(f"{missing}; run `{building(reference, model)}` first.")
    say(f"{missing}. Building it takes a while, once, and Ctrl-C ends it.")
    has_plan = preset.teacher is not None  # a contrast takes seconds
    if not has_plan:
        ask()
    with Building(learning(session, preset.name), asks=has_plan) as session.report:
        return session.build(preset, quick=quick)


def building(reference: str, model: str) -> str:
    """Return the command that makes a preset's steering for a model."""
    return f"steerplug build {shlex.quote(reference)} -m {shlex.quote(model)}"


def _found(session: "Session", preset: "Preset") -> "Built | None":
    """Return what was built before, of a quick fit or a full one; what is damaged is nothing."""
    with suppress(SteeringError):
        return session.compiled(preset)
    return None


def learning(session: "Session", preset: str) -> str:
    """Return what to say when a build begins."""
    return (
        f"Learning {preset} from {session.model.path.name}; later runs find it in "
        f"{session.store.folder} and start at once."
    )
