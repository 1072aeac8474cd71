"""`steerplug serve`: an OpenAI-compatible server.

Each option may also come from a variable of the environment (`--api-key`: STEERPLUG_API_KEY) or
from a YAML file (`--config FILE`, keys as the options: `api-key: [..]`). A flag goes before a
variable, a variable before the file.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from steerplug.commands.options import MODEL
from steerplug.commands.server_options import given, with_options
from steerplug.engine.elsewhere import sentence
from steerplug.engine.loading import SETTINGS as LOADING
from steerplug.errors import SteerplugError, nearest
from steerplug.server.config import Config


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the file's values as defaults of the other options."""
    if path is not None:
        from steerplug.files.yaml_file import read_yaml

        try:
            content = path.read_bytes()
        except OSError as error:
            raise SteerplugError(f"{path} cannot be read ({error.strerror}).") from None
        known = {option.name: option for option in context.command.params if option.name}
        spelled = {
            flag.strip("-").replace("-", "_"): name
            for name, option in known.items() for flag in option.opts
        }  # fmt: skip
        settings = {}
        for key, value in read_yaml(content, str(path)).data.items():
            name = str(key).replace("-", "_")
            name = name if name in known else spelled.get(name, name)
            if name not in known or name == "config":
                if elsewhere := sentence(str(key)):
                    raise SteerplugError(f"{path}: {elsewhere}")
                guess = nearest(str(key), [option.replace("_", "-") for option in known]) or "."
                raise SteerplugError(f"{path}: there is no setting `{key}`{guess}")
            many = getattr(known[name], "multiple", False)
            settings[name] = _items(name, value) if many else value
        context.default_map = settings
    return path


def _items(name: str, value: Any) -> list[Any]:
    """Return what a setting that may be given several times is given; a list's items are whole."""
    items = value if isinstance(value, list) else [value]
    return [[item] for item in items] if name in LOADING and items is value else items


Setup = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="A YAML file of these options.", envvar="STEERPLUG_CONFIG",
        is_eager=True, callback=_read_config,
    ),
]  # fmt: skip
Served = Annotated[
    str,
    typer.Option(
        "-m", "--model", metavar="MODEL", envvar="STEERPLUG_MODEL",
        help="A path to a GGUF, hf:org/repo/file.gguf, or an alias.",
    ),
]  # fmt: skip


@with_options
def serve(
    config: Setup = None,  # noqa: ARG001  read before the others, as their defaults
    model: Served = MODEL,
    **settings: Any,
) -> None:
    """Serve a model to OpenAI's clients; presets are models, as in smollm2@pirate."""
    try:
        from steerplug.server.log import log_to_stderr
        from steerplug.server.serve import listen, serve
        from steerplug.server.state import ServerState
    except ModuleNotFoundError as error:
        raise SteerplugError(
            f"serving needs {error.name}; run `pip install 'steerplug[server]'`."
        ) from None
    from steerplug.model_file import find_model
    from steerplug.session import Session

    settings["name"] = settings["name"] or _called(model)
    setup = given(Config, settings)
    find_model(model)  # or refuse it before anyone connects
    with listen(setup) as listening:
        session = Session(model, **vars(setup.sizes), **vars(setup.loading))
        try:
            log_to_stderr()
            serving = ServerState(session, setup)
            serve(serving, [listening])
        finally:
            session.close()


def _called(model: str) -> str:
    """Return what clients call a model: its alias, or its file without folder and ending."""
    return Path(model.rpartition("/")[2]).name.removesuffix(".gguf")
