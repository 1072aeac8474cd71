"""The options that say how tokens are drawn: one for each setting of `Sampling`, from its table."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from steerplug.engine.sampling import SETTINGS, Sampling

MaxTokens = Annotated[
    int | None, typer.Option(help="Most tokens to write; -1: all that fit.", show_default=False)
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="Text that ends the reply; may be given several times."),
]
_COMMON = ("temperature", "seed")
"""What help shows without being asked for all; see `help`."""

_PANEL = "How tokens are drawn"
_BREAKERS = "dry_sequence_breaker"


def with_sampling(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options; what they say reaches it as its argument `sampling`."""

    @functools.wraps(command, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def drawing(**words: Any) -> None:
        settings = {name: words.pop(name) for name in SETTINGS}
        if breakers := words.pop(_BREAKERS):
            settings["dry_sequence_breakers"] = breakers
        command(**words, sampling=Sampling(**settings))

    own = inspect.signature(command)
    kept = [parameter for parameter in own.parameters.values() if parameter.name != "sampling"]
    signature = own.replace(parameters=[*kept, *_options()])
    drawing.__signature__ = signature  # type: ignore[attr-defined]  # which typer reads
    return drawing


def _options() -> Iterator[inspect.Parameter]:
    for name, setting in SETTINGS.items():
        kind: Any = int if setting.whole else float
        if setting.default is None:
            yield _option(name, kind | None, None, help=setting.meaning, show_default=False)
        else:
            yield _option(name, kind, setting.default, help=setting.meaning)
    meaning = "Text that ends what DRY takes for a repetition; may be given several times."
    yield _option(_BREAKERS, list[str] | None, None, help=meaning, metavar="TEXT")


def _option(name: str, kind: Any, default: Any, **about: Any) -> inspect.Parameter:
    panel = None if name in _COMMON else _PANEL
    annotation = Annotated[kind, typer.Option(rich_help_panel=panel, **about)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
