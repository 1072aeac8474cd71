"""Files that appear whole or not at all: written beside their place, and then put there."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, *, over: bool) -> Iterator[Path]:
    """Give a path beside `path` to write to, and put the file in its place if all went well.

    Args:
        path: its place.
        over: whether it replaces what is there already; else that stays, and is an error.

    Raises:
        OSError: the disk refuses, or there is a file already; then nothing has changed.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        if over:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, *, over: bool = True) -> None:
    """Put a file in its place, flushed to disk; its folder is made if need be.

    Raises:
        OSError: the disk refuses, or there is a file already; then nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, over=over) as temporary, temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
