"""The file of `steerplug serve --config`: its options, and models of several names.

    port: 8080
    n-threads: 2             # of every model that says nothing else
    models:
      qwen3: {model: qwen3-4b.gguf, n-ctx: 8192, steer: concise}
      small: smollm2

What is said of one model goes before what is said of all, and a flag or a variable before both.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from steerplug.commands.server_options import given, names_of
from steerplug.engine.loading import SETTINGS as LOADING
from steerplug.engine.unknown_settings import sentence
from steerplug.errors import SteerplugError, nearest, unreadable
from steerplug.server.config import ModelConfig

_MODELS, _SOURCE = "models", "steerplug.source"
_OF_ONE = ("model", "name")
_SAID = ("COMMANDLINE", "ENVIRONMENT")


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the file's values as defaults of the other options, and keep its models."""
    if path is not None:
        from steerplug.files.yaml_file import MAX_BYTES, read_yaml

        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise SteerplugError(f"{path} {unreadable(error)}") from None
        take(context, read_yaml(content, str(path), "`model: smollm2`").data, str(path))
    return path


def take(context: typer.Context, said: Mapping[str, Any], where: str) -> None:
    """Take what a file, or another place named `where`, says as defaults of the options.

    Raises:
        SteerplugError: it says what is no setting, or describes a model as it cannot be.
    """
    said = dict(said)
    context.meta[_SOURCE] = where
    if _MODELS in said:
        context.meta[_MODELS] = _listed(said.pop(_MODELS), where)
    known = {option.name: option for option in context.command.params if option.name}
    known.pop("config")
    context.default_map = dict(_settings(known, said, where))


def several_models(
    context: typer.Context, settings: Mapping[str, Any]
) -> list[tuple[str, ModelConfig]]:
    """Return each model of the file, with how it is served; none: the file lists none.

    Args:
        context: of the command that read the file.
        settings: all options of the command, by name.

    Raises:
        SteerplugError: one is called or described as it cannot be.
    """
    listed: dict[str, Mapping[str, Any]] = context.meta.get(_MODELS, {})
    path = context.meta.get(_SOURCE, "")
    sources = {name: context.get_parameter_source(name) for name in settings}
    told = {name: source.name for name, source in sources.items() if source}
    for name in _OF_ONE if listed else ():
        if told.get(name) != "DEFAULT":
            raise SteerplugError(
                f"{path} lists its models under `models`, and `{name}` is of one model; say it "
                "there, or leave it out."
            )
    names = {"model", *names_of(ModelConfig)} - {"name"}
    known = {option.name: option for option in context.command.params if option.name in names}
    models = []
    for name, said in listed.items():
        where = f"{path}, model `{name}`"
        own = {
            option: _read(context, known[option], value, where)
            for option, value in _settings(known, said, where)
            if told.get(option) not in _SAID
        }
        if "model" not in own:
            raise SteerplugError(f"{where}: it has no key `model`; give a path to a GGUF there.")
        models.append((own["model"], given(ModelConfig, {**settings, **own, "name": name})))
    return models


def _listed(value: Any, path: str) -> dict[str, Mapping[str, Any]]:
    """Return what is said of each model, by its name; a text alone is the model itself."""
    if not isinstance(value, Mapping) or not value:
        raise SteerplugError(
            f"{path}: models lists each model by its name, as in `qwen3: {{model: qwen3.gguf}}`."
        )
    listed = {}
    for name, said in value.items():
        listed[str(name)] = {"model": said} if isinstance(said, str) else said
        if not isinstance(listed[str(name)], Mapping):
            raise SteerplugError(
                f"{path}, model `{name}`: say its path, or settings such as `model: {name}.gguf`."
            )
    return listed


def _settings(
    known: Mapping[str, Any], said: Mapping[str, Any], where: str
) -> Iterator[tuple[str, Any]]:
    """Yield the options that a part of the file names, by their names in Python."""
    spelled = {
        flag.strip("-").replace("-", "_"): name
        for name, option in known.items() for flag in option.opts
    }  # fmt: skip
    for key, value in said.items():
        name = str(key).replace("-", "_")
        name = name if name in known else spelled.get(name, name)
        if name not in known:
            if hint := sentence(str(key)):
                raise SteerplugError(f"{where}: {hint}")
            guess = nearest(str(key), [option.replace("_", "-") for option in known]) or "."
            raise SteerplugError(f"{where}: there is no setting `{key}`{guess}")
        many = getattr(known[name], "multiple", False)
        yield name, _items(name, value) if many else value


def _items(name: str, value: Any) -> list[Any]:
    """Return what a setting that may be given several times is given; a list's items are whole."""
    items = value if isinstance(value, list) else [value]
    return [[item] for item in items] if name in LOADING and items is value else items


def _read(context: typer.Context, option: Any, value: Any, where: str) -> Any:
    """Return a value as the option reads it that is named so."""
    try:
        return option.process_value(context, value)
    except SteerplugError as error:
        raise SteerplugError(f"{where}: {error}") from None
    except Exception as error:  # typer's own move between its versions; see `commands.main`
        complaint = getattr(error, "message", None)
        if complaint is None:
            raise
        name, complaint = option.name.replace("_", "-"), str(complaint).rstrip(".")
        raise SteerplugError(f"{where}: {name} is {value!r:.60}; {complaint}.") from None
