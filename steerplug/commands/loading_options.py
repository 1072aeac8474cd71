"""The options that say how a model is loaded: one for each setting of `Loading`, from its table.

They are spelled as llama.cpp's own tools spell them, and each may also come from a variable of the
environment, named as the setting: STEERPLUG_N_CTX.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Annotated, Any

import typer

from steerplug.engine.loading import SETTINGS, Loading
from steerplug.engine.setting import Setting

_COMMON = ("n_ctx", "n_threads", "n_gpu_layers")
"""What help shows without being asked for all; see `help`."""


def with_loading(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options; what they say reaches it as its argument `loading`."""

    @functools.wraps(command, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def loading(**words: Any) -> None:
        asked = loading_of(words)
        command(**{name: words[name] for name in words if name not in SETTINGS}, loading=asked)

    own = inspect.signature(command)
    kept = [parameter for parameter in own.parameters.values() if parameter.name != "loading"]
    signature = own.replace(parameters=[*kept, *loading_options()])
    loading.__signature__ = signature  # type: ignore[attr-defined]  # which typer reads
    return loading


def loading_of(words: Mapping[str, Any]) -> Loading:
    """Return what the options say, by the name of each.

    Raises:
        ModelError: two contradict each other, or a number is out of range.
    """
    asked = {name: words[name] for name in SETTINGS}
    for name, known in SETTINGS.items():
        if known.many:
            asked[name] = tuple(chain(*asked[name] or ()))
    return Loading(**asked)


def loading_options() -> Iterator[inspect.Parameter]:
    """Yield an option for each setting, as typer reads them."""
    for name, known in SETTINGS.items():
        default = None if known.default in (None, ()) else known.default
        kind: Any = list[str] if known.many else known.kind
        option = typer.Option(
            *_flags(name, known), help=known.meaning, metavar=known.metavar,
            rich_help_panel=None if name in _COMMON else known.group,
            envvar=f"STEERPLUG_{name.upper()}", show_envvar=False,
            show_default=default is not None, **_parser(name, known),
        )  # fmt: skip
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default,
            annotation=Annotated[kind | None if default is None else kind, option],
        )  # fmt: skip


def _flags(name: str, known: Setting) -> tuple[str, ...]:
    own = () if known.kind is bool else (f"--{name.replace('_', '-')}",)
    return (*own, *known.flags)


def _parser(name: str, known: Setting) -> dict[str, Any]:
    """Return how typer reads the words of a setting that is no number, from a file as well."""

    def read(words: Any) -> Any:
        return known.read(name, words)

    return {"parser": read} if known.kind is str else {}
