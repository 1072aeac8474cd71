"""`steerplug serve`: an OpenAI-compatible server.

Each option may also come from a variable of the environment (`--api-key`: STEERPLUG_API_KEY) or
from a YAML file (`--config FILE`, keys as the options: `api-key: [..]`). A flag goes before a
variable, a variable before the file. Only the file can name several models, under `models`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from steerplug.commands import completion
from steerplug.commands.options import MODEL
from steerplug.commands.serve_file import read_config, several_models, take
from steerplug.commands.server_options import given, with_options
from steerplug.commands.usage import usage
from steerplug.errors import SteerplugError
from steerplug.server.config import Config, ModelConfig

Setup = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", envvar="STEERPLUG_CONFIG", show_envvar=False, is_eager=True,
        callback=read_config,
        help="A YAML file of these options, which may name several models.",
    ),
]  # fmt: skip
Served = Annotated[
    str,
    typer.Option(
        "-m", "--model", metavar="MODEL", envvar="STEERPLUG_MODEL", show_envvar=False,
        help="A path to a GGUF, hf:org/repo/file.gguf, or an alias.",
        autocompletion=completion.models,
    ),
]  # fmt: skip


@with_options
def serve(
    context: typer.Context,
    config: Setup = None,  # noqa: ARG001  read before the others, as their defaults
    model: Served = MODEL,
    **settings: Any,
) -> None:
    """Serve a model to OpenAI's clients; presets are models, as in smollm2@pirate."""
    from steerplug.model_file import find_model

    setup, models = asked(context, model, settings)
    for reference, _ in models:
        find_model(reference)  # or refuse it before anyone connects
    _run(setup, models)


def asked(
    context: typer.Context, model: str, settings: dict[str, Any]
) -> tuple[Config, list[tuple[str, ModelConfig]]]:
    """Return how a server is to be set up, and its models; what is asked for is in `settings`.

    Raises:
        SteerplugError: the settings do not go together.
    """
    setup = given(Config, settings)
    models = several_models(context, {"model": model, **settings})
    if not models:
        settings["name"] = settings["name"] or _called(model)
        models = [(model, given(ModelConfig, settings))]
    return setup, models


def read(said: Mapping[str, Any]) -> tuple[Config, list[tuple[str, ModelConfig]]]:
    """Return what `serve` would serve if its file said this, or the file that `config` names.

    Raises:
        SteerplugError: it says what is no setting, or what does not go together.
    """
    from steerplug.commands.app import command_line

    command = command_line().commands["serve"]  # type: ignore[attr-defined]  # of a group
    words = ["--config", str(said["config"])] if "config" in said else []
    context = command.context_class(command, info_name="serve")
    with context.scope():
        take(context, {key: value for key, value in said.items() if key != "config"}, "args")
        try:
            command.parse_args(context, words)
        except SteerplugError:
            raise
        except Exception as error:  # typer's own
            raise SteerplugError(usage(error)) from None
        model, settings = context.params.pop("model"), context.params
        settings.pop("config")
        return asked(context, model, settings)


def _run(setup: Config, models: Sequence[tuple[str, ModelConfig]]) -> None:
    """Serve each of these models until told to stop."""
    try:
        if setup.replicas is None:
            from steerplug.server.serve import serve_models as run
        else:
            from steerplug.cluster.environment import prepare

            prepare()
            from steerplug.cluster.local import serve_here as run
    except ModuleNotFoundError as error:
        extra = "server" if setup.replicas is None else "ray"
        raise SteerplugError(
            f"serving needs {error.name}; run `pip install 'steerplug[{extra}]'`."
        ) from None
    run(setup, models)


def _called(model: str) -> str:
    """Return what clients call a model: its alias, or its file without folder and ending."""
    return Path(model.rpartition("/")[2]).name.removesuffix(".gguf")
