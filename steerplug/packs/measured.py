"""What `steerplug eval` measured here of numbers that came in a pack.

A pack's own figures are its author's claims. This is a small file of our own beside the packs, with
what was measured on this machine, by the digest of the numbers and the model's fingerprint.
"""

import json
import os
import uuid
from typing import Any

from steerplug.packs.lock import packs_folder

_FILE = "measured.json"


def remember(digest: str, model: str, gap_closed: float | None) -> None:
    """Keep a measurement; a disk that refuses is no reason to lose the report it belongs to."""
    folder = packs_folder()
    found = {**_all(), f"{digest} {model}": gap_closed}
    temporary = folder / f".{_FILE}.{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(found, indent=1))
        os.replace(temporary, folder / _FILE)
    except OSError:
        temporary.unlink(missing_ok=True)


def recall(digest: str, model: str) -> float | None:
    """Return the share of the gap that numbers were measured to close here, if they were."""
    found = _all().get(f"{digest} {model}")
    return found if isinstance(found, float) else None


def _all() -> dict[str, Any]:
    try:
        found = json.loads((packs_folder() / _FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
