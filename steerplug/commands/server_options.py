"""The options that set up a server: one for each setting that has a flag, of it and of its model.

Each may also come from a variable of the environment, named as its flag.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from steerplug.commands.completion import mixes, preset_names
from steerplug.commands.loading_options import loading_of, loading_options
from steerplug.engine.loading import Loading
from steerplug.server.config import Config, ModelConfig

_Settings = TypeVar("_Settings")
_COMPLETED = {"steer": mixes, "compile": preset_names}
"""What a shell completes of an option's value, where it knows."""


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options; what they say reaches it as further arguments."""
    signature = inspect.signature(command)
    *own, _settings = signature.parameters.values()
    options = [*_options(ModelConfig), *_options(Config)]
    signature = signature.replace(parameters=[*own, *options])
    command.__signature__ = signature  # type: ignore[attr-defined]  # which typer reads
    return command


def given(kind: type[_Settings], options: Mapping[str, Any]) -> _Settings:
    """Return the settings that these options say, by the name of each option."""
    values: dict[str, Any] = {}
    for entry, hint in _entries(kind):
        if hint is Loading:
            values[entry.name] = loading_of(options)
        elif is_dataclass(hint):
            values[entry.name] = given(hint, options)  # type: ignore[arg-type]
        elif entry.metadata:
            value = options[_name(entry)]
            values[entry.name] = tuple(value or ()) if hint == tuple[str, ...] else value
    return kind(**values)


def names_of(kind: Any) -> list[str]:
    """Return the names of the options of such settings."""
    return [option.name for option in _options(kind)]


def _entries(kind: Any) -> Iterator[tuple[Field[Any], Any]]:
    hints = get_type_hints(kind)
    for entry in fields(kind):
        yield entry, hints[entry.name]


def _options(kind: Any) -> Iterator[inspect.Parameter]:
    for entry, hint in _entries(kind):
        if hint is Loading:
            yield from loading_options()
        elif is_dataclass(hint):
            yield from _options(hint)
        elif entry.metadata:
            yield _option(entry, hint)


def _option(entry: Field[Any], hint: Any) -> inspect.Parameter:
    flag, name = entry.metadata["flag"], _name(entry)
    default = None if entry.default in (MISSING, ()) else entry.default
    hint = list[str] if hint == tuple[str, ...] else hint
    option = typer.Option(
        *flag.names, envvar=f"STEERPLUG_{name.upper()}", show_envvar=False, help=flag.meaning,
        autocompletion=_COMPLETED.get(name), **flag.about,
    )  # fmt: skip
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default,
        annotation=Annotated[hint | None if default is None else hint, option],
    )  # fmt: skip


def _name(entry: Field[Any]) -> str:
    """Return what an option is called in Python: as its long flag."""
    names = entry.metadata["flag"].names
    return names[-1].partition("/")[0].strip("-").replace("-", "_") if names else entry.name
