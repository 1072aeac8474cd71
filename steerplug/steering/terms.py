"""What steering shares with presets and packs: words, names and limits, without NumPy.

Steering that is kept lies at `MODEL/NAME-KEY.gguf` below a folder: the cache, or `compiled` in a
pack or beside the presets that ship.
"""

import re
from pathlib import Path
from typing import Literal

Scope = Literal["response", "all", "front"]
"""Which tokens are steered."""

Phase = Literal["thinking", "constrained"]
"""What of a reply may be left unsteered."""

PRESET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MAX_BYTES = 64 * 2**20
"""Of a steering file."""

COMPILED = "compiled"
PLACE = re.compile(r"[a-z0-9_-]{1,16}/[a-z0-9_-]{1,64}-[0-9a-f]{16}\.gguf")


def place(preset: str, model: str, key: str) -> str:
    """Return where steering is kept below a folder; safe as a name on every system.

    Args:
        preset: the preset's name.
        model: the model's fingerprint.
        key: a hash (hex) of all that the steering depends on.
    """
    return f"{_folder(model)}/{_stem(preset)}-{key[:16]}.gguf"


def is_place(path: str, preset: str, model: str) -> bool:
    """Say whether a path below a folder may be steering of that preset and model, by any key."""
    return path.startswith(f"{_folder(model)}/{_stem(preset)}-")


def places(preset: str, folder: Path) -> list[Path]:
    """Return what below a folder may be steering of a preset, for whatever model, in order."""
    return sorted(folder.glob(f"*/{_stem(preset)}-*.gguf"))


def _folder(model: str) -> str:
    return re.sub(r"[^a-z0-9-]", "_", model.lower())[:16]


def _stem(preset: str) -> str:
    return preset.replace(".", "_")  # Windows reserves names such as `con.x`
