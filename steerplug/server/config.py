"""How a server is set up: where it listens, who may ask, and how much of it."""

import ipaddress
from dataclasses import dataclass

from steerplug.errors import SteerplugError

KIB = 1024


@dataclass(frozen=True)
class Limits:
    """What one client may ask of a server.

    Args:
        body: bytes of a request.
        prompt: characters of a prompt.
        schema: bytes of the schemas in a request, as JSON.
        requests: how many are answered at a time; more are told to come back.
        timeout: seconds for one reply.
        upload: seconds in which a request must have come in, its head and then its body.
        unread: seconds that a client may leave an answer unread.
        connections: how many may be open at a time, of all clients together.
        head: bytes of a request before its body.
    """

    body: int = 2 * KIB * KIB
    prompt: int = 200_000
    schema: int = 64 * KIB
    requests: int = 64
    timeout: float = 600.0
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

    Args:
        name: what clients call the model.
        host, port: where it listens; any host but this machine's own needs a key. Port 0: any.
        api_keys: one of them is asked for; none: everyone on this machine may ask.
        admin_key: what the server's defaults may be changed with; None: by nobody.
        origins: web pages of these origins may ask, such as `https://chat.example.org`.
        steer: how a reply is steered if nobody says.
        share_cache: whether requests of different keys may use each other's cached prompts.
        heartbeat: seconds of silence after which a stream shows that it is alive.
        grace: seconds that streams may go on when the server is told to stop.
        log_text: write prompts and replies to the log.
        limits: what one client may ask.
        parse_special: read control tokens such as `<|im_end|>` in texts of clients, too.

    Raises:
        SteerplugError: the settings do not go together.
    """

    name: str
    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    admin_key: str | None = None
    origins: tuple[str, ...] = ()
    steer: str = "none"
    share_cache: bool = True
    heartbeat: float = 10.0
    grace: float = 20.0
    log_text: bool = False
    limits: Limits = Limits()
    parse_special: bool = False

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
