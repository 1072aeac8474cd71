"""`steerplug serve`: an OpenAI-compatible server.

Each option may also come from a variable of the environment (`--api-key`: STEERPLUG_API_KEY) or
from a YAML file (`--config FILE`, keys as the options: `api-key: [..]`). A flag goes before a
variable, a variable before the file.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from steerplug.commands.options import MODEL
from steerplug.errors import SteerplugError, nearest


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the file's values as defaults of the other options."""
    if path is not None:
        from steerplug.files.yaml_file import read_yaml

        try:
            content = path.read_bytes()
        except OSError as error:
            raise SteerplugError(f"{path} cannot be read ({error.strerror}).") from None
        known = {option.name: option for option in context.command.params if option.name}
        settings = {}
        for key, value in read_yaml(content, str(path)).data.items():
            name = str(key).replace("-", "_")
            if name not in known or name == "config":
                guess = nearest(str(key), [option.replace("_", "-") for option in known]) or "."
                raise SteerplugError(f"{path}: there is no setting `{key}`{guess}")
            many = getattr(known[name], "multiple", False)
            settings[name] = [value] if many and not isinstance(value, list) else value
        context.default_map = settings
    return path


def _option(*names: str, env: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, envvar=f"STEERPLUG_{env}", help=help, **more)


Setup = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="A YAML file of these options.", envvar="STEERPLUG_CONFIG",
        is_eager=True, callback=_read_config,
    ),
]  # fmt: skip
Served = Annotated[
    str,
    _option("-m", "--model", metavar="MODEL", env="MODEL",
            help="A path to a GGUF, hf:org/repo/file.gguf, or an alias."),
]  # fmt: skip
Name = Annotated[
    str | None, _option(env="NAME", help="What clients call it.", show_default="the file's name")
]
Host = Annotated[str, _option(env="HOST", help="Where to listen; beyond this machine needs a key.")]
Port = Annotated[int, _option(env="PORT", help="The port.", min=0, max=65535)]
Keys = Annotated[
    list[str] | None,
    _option("--api-key", env="API_KEY", help="A key that clients need; may be given many times."),
]
AdminKey = Annotated[
    str | None, _option(env="ADMIN_KEY", help="The key that may change the default steering.")
]
Origins = Annotated[
    list[str] | None,
    _option("--origin", env="ORIGIN", help="Web pages of this origin may ask; none unless said."),
]
Default = Annotated[
    str, _option("-s", "--steer", metavar="MIX", env="STEER", help="The default steering.")
]
Context = Annotated[int, _option(env="N_CTX", help="Tokens of one conversation.", min=1)]
Cells = Annotated[
    int | None,
    _option(env="N_CELLS", help="KV cells that all share.", show_default="as many as --n-ctx"),
]
Sequences = Annotated[int, _option(env="N_SEQ", help="Most replies made at a time.", min=1)]
Threads = Annotated[
    int | None, _option(env="N_THREADS", help="Threads.", show_default="all processors", min=1)
]
MaxBody = Annotated[int, _option(env="MAX_BODY", help="Most bytes of a request.")]
MaxPrompt = Annotated[int, _option(env="MAX_PROMPT", help="Most characters of a prompt.")]
MaxSchema = Annotated[int, _option(env="MAX_SCHEMA", help="Most bytes of its schemas.")]
MaxRequests = Annotated[int, _option(env="MAX_REQUESTS", help="Most requests at a time.")]
Timeout = Annotated[float, _option(env="TIMEOUT", help="Most seconds of a reply.")]
Grace = Annotated[float, _option(env="GRACE", help="Seconds for streams to end when stopped.")]
Heartbeat = Annotated[float, _option(env="HEARTBEAT", help="Seconds of silence in a stream.")]
Share = Annotated[
    bool,
    _option("--share-cache/--separate-keys", env="SHARE_CACHE",
            help="Whether keys may use each other's cached prompts."),
]  # fmt: skip
LogText = Annotated[bool, _option("--log-text", env="LOG_TEXT", help="Log prompts and replies.")]
ParseSpecial = Annotated[
    bool,
    _option("--parse-special", env="PARSE_SPECIAL",
            help="Read control tokens such as <|im_end|> in messages of clients."),
]  # fmt: skip


def serve(
    config: Setup = None,  # noqa: ARG001  read before the others, as their defaults
    model: Served = MODEL,
    name: Name = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    api_key: Keys = None,
    admin_key: AdminKey = None,
    origin: Origins = None,
    steer: Default = "none",
    n_ctx: Context = 4096,
    n_cells: Cells = None,
    n_seq: Sequences = 32,
    n_threads: Threads = None,
    max_body: MaxBody = 2 * 1024 * 1024,
    max_prompt: MaxPrompt = 200_000,
    max_schema: MaxSchema = 64 * 1024,
    max_requests: MaxRequests = 64,
    timeout: Timeout = 600.0,
    grace: Grace = 20.0,
    heartbeat: Heartbeat = 10.0,
    share_cache: Share = True,
    log_text: LogText = False,
    parse_special: ParseSpecial = False,
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
    from steerplug.server.config import Config, Limits
    from steerplug.session import Session

    limits = Limits(max_body, max_prompt, max_schema, max_requests, timeout)
    setup = Config(
        name or _called(model), host, port, tuple(api_key or ()), admin_key, tuple(origin or ()),
        steer, share_cache, heartbeat, grace, log_text, limits, parse_special,
    )  # fmt: skip
    find_model(model)
    with listen(setup) as listening:
        session = Session(model, n_ctx=n_ctx, n_cells=n_cells, n_seq=n_seq, n_threads=n_threads)
        try:
            log_to_stderr()
            serving = ServerState(session, setup)
            serve(serving, [listening])
        finally:
            session.close()


def _called(model: str) -> str:
    """Return what clients call a model: its alias, or its file without folder and ending."""
    return Path(model.rpartition("/")[2]).name.removesuffix(".gguf")
