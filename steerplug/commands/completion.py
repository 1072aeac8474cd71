"""What a shell completes: presets, mixes and models (`steerplug --install-completion`)."""

import re
from pathlib import Path

_LAST_NAME = re.compile(r"[^+*\s]*$")


def preset_names(incomplete: str) -> list[str]:
    """Return the presets whose names begin so."""
    from steerplug.library.presets import list_presets

    return [one.name for one in list_presets() if one.preset and one.name.startswith(incomplete)]


def mixes(incomplete: str) -> list[str]:
    """Return a mix with its last name completed."""
    start = _LAST_NAME.sub("", incomplete)
    return [start + name for name in preset_names(incomplete[len(start) :])]


def models(incomplete: str) -> list[str]:
    """Return aliases, GGUF files and folders that begin so."""
    from steerplug.model_file import ALIASES

    folder = Path(incomplete).parent if incomplete[-1:] != "/" else Path(incomplete)
    begun = incomplete[: incomplete.rfind("/") + 1]
    found = sorted(path for path in folder.glob("*") if path.is_dir() or path.suffix == ".gguf")
    files = [f"{begun}{path.name}{'/' if path.is_dir() else ''}" for path in found]
    return [word for word in (*ALIASES, *files) if word.startswith(incomplete)]
