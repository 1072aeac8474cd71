"""How a server is set up: where it listens, who may ask, and how much of it; and each model.

A setting stands here once, with its default and its meaning. Those that have a `Flag` are options
of `steerplug serve`, and so variables and keys of its file; `commands/server_options.py` makes them
of these. How the model is loaded is said in `engine.loading`.
"""

import ipaddress
from dataclasses import MISSING, dataclass, field
from typing import Any

from steerplug.engine.loading import DEFAULT, Loading
from steerplug.errors import SteerplugError

KIB = 1024
ALL = "all"
_LIMIT = {"rich_help_panel": "Limits"}
"""Of settings that `serve --help-all` lists, and `--help` does not."""


@dataclass(frozen=True)
class Flag:
    """How a setting is given on the command line.

    Args:
        meaning: what it does, in a line.
        names: the flags; none: as the setting is called.
        about: what typer is told besides.
    """

    meaning: str
    names: tuple[str, ...]
    about: dict[str, Any]


def _setting(default: Any, meaning: str, *names: str, **about: Any) -> Any:
    return field(default=default, metadata={"flag": Flag(meaning, names, about)})


@dataclass(frozen=True)
class Sizes:
    """How much the engine of a server does at a time; see `Engine`."""

    n_cells: int | None = _setting(
        None, "KV cells that all share.", show_default="as many as --n-ctx", **_LIMIT
    )
    n_seq: int | None = _setting(
        None, "Most replies made at a time.", show_default="as suits the model", min=1, **_LIMIT
    )  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """How one model is served, and loaded."""

    name: str = _setting(
        MISSING, "What clients call it.", metavar="NAME", show_default="the file's name"
    )
    steer: str = _setting("none", "The default steering.", "-s", "--steer", metavar="MIX")
    compile: tuple[str, ...] = _setting(
        (), "Compile presets while no reply is made: names, or all; may be given many times.",
        "--compile", metavar="NAMES",
    )  # fmt: skip
    loading: Loading = DEFAULT
    sizes: Sizes = Sizes()

    @property
    def to_compile(self) -> tuple[str, ...]:
        """The presets that are to be compiled, by name."""
        named = [name.strip() for names in self.compile for name in names.split(",")]
        return tuple(name for name in named if name and name != ALL)

    @property
    def compiles_all(self) -> bool:
        """Whether all presets are to be compiled."""
        return any(ALL in names.split(",") for names in self.compile)


@dataclass(frozen=True)
class Limits:
    """What one client may ask of a server; more `requests` are told to come back.

    Args:
        upload: seconds in which a request must have come in, its head and then its body.
        unread: seconds that a client may leave an answer unread.
        connections: how many may be open at a time, of all clients together.
        head: bytes of a request before its body.
    """

    body: int = _setting(2 * KIB * KIB, "Most bytes of a request.", "--max-body", **_LIMIT)
    prompt: int = _setting(200_000, "Most characters of a prompt.", "--max-prompt", **_LIMIT)
    schema: int = _setting(64 * KIB, "Most bytes of its schemas.", "--max-schema", **_LIMIT)
    requests: int = _setting(64, "Most requests at a time.", "--max-requests", **_LIMIT)
    timeout: float = _setting(600.0, "Most seconds of a reply.", **_LIMIT)
    upload: float = 30.0
    unread: float = 60.0
    connections: int = 512
    head: int = 64 * KIB

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise SteerplugError(f"the limit `{name}` is {value}; give a number above 0.")


@dataclass(frozen=True)
class Config:
    """How a server is set up.

    With no API key, everyone on this machine may ask; with no admin key, nobody may change the
    server's defaults. Port 0 is any that is free. An origin is such as `https://chat.example.org`.

    Raises:
        SteerplugError: the settings do not go together.
    """

    host: str = _setting(
        "127.0.0.1", "Where to listen; beyond this machine needs a key.", metavar="ADDRESS"
    )
    port: int = _setting(8080, "The port.", min=0, max=65535)
    api_keys: tuple[str, ...] = _setting(
        (), "A key that clients need; may be given many times.", "--api-key", metavar="KEY"
    )
    admin_key: str | None = _setting(
        None, "The key that may change the default steering.", metavar="KEY"
    )
    origins: tuple[str, ...] = _setting(
        (), "Web pages of this origin may ask; by default none.", "--origin", metavar="URL"
    )
    limits: Limits = Limits()
    grace: float = _setting(20.0, "Seconds for streams to end when stopped.", **_LIMIT)
    heartbeat: float = _setting(10.0, "Seconds of silence in a stream.", **_LIMIT)
    share_cache: bool = _setting(
        True, "Whether keys may use each other's cached prompts.", "--share-cache/--separate-keys"
    )
    log_text: bool = _setting(False, "Log prompts and replies.", "--log-text")
    parse_special: bool = _setting(
        False, "Read control tokens such as <|im_end|> in texts of clients.", "--parse-special"
    )

    replicas: int | None = _setting(
        None, "Run so many replicas of it by Ray.", metavar="N",
        show_default="none: this process alone", min=1,
    )
    presets_at: str | None = _setting(
        None, "One folder or URL of presets for all replicas.", metavar="PLACE",
        show_default="each node's own",
    )

    def __post_init__(self) -> None:
        keys = [*self.api_keys, *([self.admin_key] if self.admin_key is not None else [])]
        if any(not key.strip() or not key.isascii() or not key.isprintable() for key in keys):
            raise SteerplugError("a key is empty or holds other than plain characters; change it.")
        if self.admin_key in self.api_keys:
            raise SteerplugError("the admin key is also an API key; give it a value of its own.")
        if not self.is_local and not self.api_keys:
            raise SteerplugError(
                f"host {self.host} can be reached from other machines, and there is no API key; "
                "give --api-key, or listen on 127.0.0.1."
            )
        for origin in self.origins:
            scheme, _, rest = origin.partition("://")
            if not (scheme and rest) or "*" in origin or "/" in rest:
                raise SteerplugError(
                    f"`{origin}` is no origin; write it as in https://chat.example.org."
                )
        if self.heartbeat <= 0 or self.grace < 0:
            raise SteerplugError("heartbeat must be above 0 seconds, and grace at least 0.")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
