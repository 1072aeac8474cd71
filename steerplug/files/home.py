"""`~` and `~user` in paths that people give, or that follow from where their home is."""

from pathlib import Path

from steerplug.errors import SteerplugError


def at_home(path: Path, kind: type[SteerplugError], cure: str = "give its whole path") -> Path:
    """Return a path in which `~` is what it stands for.

    Args:
        path: what was given.
        kind: which error to raise.
        cure: what to do where nobody's home is known.

    Raises:
        SteerplugError: there is no such user, or this one has no home, as in a container.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        home = path.parts[0]
        raise kind(f"{path} cannot be found, for `{home}` is nobody's home; {cure}.") from None
