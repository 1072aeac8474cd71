"""`steerplug serve`: an OpenAI-compatible server.

Each option may also come from a variable of the environment (`--api-key`: STEERPLUG_API_KEY) or
from a YAML file (`--config FILE`, keys as the options: `api-key: [..]`). A flag goes before a
variable, a variable before the file. Only the file can name several models, under `models`.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from steerplug.commands.options import MODEL
from steerplug.commands.serve_file import read_config, several_models
from steerplug.commands.server_options import given, with_options
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
    ),
]  # fmt: skip


@with_options
def serve(
    context: typer.Context,
    config: Setup = None,  # read before the others, as their defaults
    model: Served = MODEL,
    **settings: Any,
) -> None:
    """Serve a model to OpenAI's clients; presets are models, as in smollm2@pirate."""
    from steerplug.model_file import find_model

    setup = given(Config, settings)
    models = several_models(context, config, {"model": model, **settings}) if config else []
    if not models:
        settings["name"] = settings["name"] or _called(model)
        models = [(model, given(ModelConfig, settings))]
    for reference, _ in models:
        find_model(reference)  # or refuse it before anyone connects
    _run(setup, models)


def _run(setup: Config, models: Sequence[tuple[str, ModelConfig]]) -> None:
    """Serve each of these models until told to stop."""
    try:
        from steerplug.server.log import log_to_stderr
        from steerplug.server.models import Models, check_names
        from steerplug.server.serve import listen, serve
        from steerplug.server.served import Served
        from steerplug.server.state import ServerState
    except ModuleNotFoundError as error:
        raise SteerplugError(
            f"serving needs {error.name}; run `pip install 'steerplug[server]'`."
        ) from None
    from steerplug.session import Session
    from steerplug.session.activity import Activity

    check_names([one.name for _, one in models])
    with listen(setup) as listening, ExitStack() as opened:
        activity, sessions = Activity(), []
        for reference, one in models:
            session = Session(
                reference, activity=activity, **vars(one.sizes), **vars(one.loading)
            )
            opened.callback(session.close)
            sessions.append((session, one))
        log_to_stderr()
        serving = ServerState(Models([Served(*one) for one in sessions]), setup)
        serve(serving, [listening])


def _called(model: str) -> str:
    """Return what clients call a model: its alias, or its file without folder and ending."""
    return Path(model.rpartition("/")[2]).name.removesuffix(".gguf")
