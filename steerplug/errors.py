"""Every error steerplug raises on purpose: one sentence that names the value and the cure.

    SteerplugError
    ├── PresetError            a preset file, its name or a mix of names is wrong
    │   ├── PresetNotFound
    │   └── PackError         a pack of presets, where it comes from or its lock is wrong
    ├── ModelError             the model cannot be found, read or steered
    │   └── ModelNotFound
    ├── SteeringError          a steering value or file does not fit: width, layers, numbers
    ├── StrengthError          a strength is not a finite number, or beyond the preset's range
    ├── FitError               a preset could not be turned into steering for this model
    │   └── TorchCopyError     there is no torch copy of the model for gradients to follow
    ├── StoreError             the cache on disk cannot be read or written
    ├── RequestError           a chat, prompt or sampling setting is wrong
    │   └── ContextOverflow    the prompt does not fit the context
    └── EngineError            inference failed, or steering that was asked for did not happen
        ├── EngineBusy         as many requests are waiting as the engine keeps
        └── ReplyTimeout       a reply took longer than its request allows

Doors translate them: `status` is the HTTP status; the command line prints the sentence and exits 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class SteerplugError(Exception):
    """Base of all errors raised on purpose; its text is one sentence for the user."""

    status = 400


class PresetError(SteerplugError):
    """A preset file, a preset name or a mix is wrong."""


class PresetNotFound(PresetError):
    """No preset of that name or path exists."""

    status = 404


class PackError(PresetError):
    """A pack of presets, where it comes from or its lock is wrong; nothing of it is used."""


class ModelError(SteerplugError):
    """The model file cannot be read, or cannot be steered."""


class ModelNotFound(ModelError):
    """No model of that name or path exists."""

    status = 404


class SteeringError(SteerplugError):
    """A steering value or file does not fit the model, or is damaged."""


class StrengthError(SteerplugError):
    """A strength is not a finite number, or lies outside the preset's range."""


class FitError(SteerplugError):
    """A preset could not be turned into steering for this model."""


class TorchCopyError(FitError):
    """There is no torch copy of this model here for gradients to follow, or it is another model."""


class StoreError(SteerplugError):
    """The cache on disk cannot be read or written."""

    status = 500


class RequestError(SteerplugError):
    """A chat, a prompt or a sampling setting is wrong."""


class ContextOverflow(RequestError):
    """The prompt, with room for one reply token, does not fit the context."""


class EngineError(SteerplugError):
    """Inference failed, or steering that was asked for did not happen."""

    status = 500


class EngineBusy(EngineError):
    """As many requests are waiting as the engine keeps."""

    status = 503


class ReplyTimeout(EngineError):
    """A reply took longer than its request allows."""

    status = 504


_NEAR = 0.65
"""Two letters swapped in a word of four are nearer; another word with the same ending is not."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean `x`?`` for the known word close to `word`, if there is one."""
    spelt = {one.lower(): one for one in known}
    matches = get_close_matches(word.lower(), list(spelt), n=1, cutoff=_NEAR)
    return f"; did you mean `{spelt[matches[0]]}`?" if matches else ""


def unreadable(error: Exception, cure: str = "check the path") -> str:
    """Return the end of a sentence on a file, ``cannot be read (why); cure.``.

    Args:
        error: what came of reading it: an `OSError`, or what Python says of a NUL or `~nobody`.
        cure: what to do, where it is not that the permissions forbid it.
    """
    why = getattr(error, "strerror", None) or error
    cure = "check its permissions" if isinstance(error, PermissionError) else cure
    return f"cannot be read ({why}); {cure}."
