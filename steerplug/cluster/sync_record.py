"""What was seen at a place of presets, kept beside this node's copy of it.

So a copy knows after any pause what came from there, and is gone if it is there no more, and what
was made here. All replicas of a node share one copy, and so this. It lies beside the copy and not
in it, where each change would have the library read again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from steerplug.files.cache_folder import usable
from steerplug.files.whole_file import write_whole

Stamps = dict[str, Any]
"""What tells each file from the next in its place, by name; None: it is to be looked at again."""


class SyncRecord:
    """What was seen at a place.

    Args:
        copy: the folder of this node's copy.

    Raises:
        StoreError: from all that uses it, if the disk refuses.
    """

    def __init__(self, copy: Path) -> None:
        self._copy, self._file = copy, copy.with_suffix(".json")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have no other replica of this node change the copy, or this, meanwhile."""
        with usable(self._copy):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._file}.lock"):
                yield

    def read(self) -> Stamps | None:
        """Return it; None if there is none that can be read."""
        try:
            kept = json.loads(self._file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return kept if isinstance(kept, dict) else None

    def keep(self, seen: Stamps) -> None:
        """Keep it, whole or not at all."""
        if seen != self.read():
            write_whole(self._file, json.dumps(seen).encode())
