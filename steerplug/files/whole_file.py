"""Files that appear whole or not at all: written beside their place, flushed, and then put there.

What is half-written bears the file's own name, a random word and `.tmp`, so no two writers share
it; `left_overs` are those of a writer that was killed.
"""

import glob
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, *, over: bool) -> Iterator[Path]:
    """Give a path beside `path` to write to; flush it to disk and put it there if all went well.

    Args:
        path: its place.
        over: whether it replaces what is there already; else that stays, and is an error.

    Raises:
        OSError: the disk refuses, or there is a file already; then nothing has changed.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        if over:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, *, over: bool = True) -> None:
    """Put a file in its place; its folder is made if need be.

    Raises:
        OSError: the disk refuses, or there is a file already; then nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, over=over) as temporary:
        temporary.write_bytes(content)


def left_overs(path: Path) -> list[Path]:
    """Return what writers of `path` left half-written, or are still writing."""
    return list(path.parent.glob(f"{glob.escape(path.name)}.*.tmp"))
