"""How much memory this process may still take, and giving back what it no longer holds.

What is free is the machine's, within the limit of the process's group.

A cache that is larger would be promised by the system, and the process ended when it is filled.
Pages of files, such as a mapped model, count as free: the system gives them up when asked.
Source: the Linux kernel's documentation of `/proc/meminfo` and of control groups; elsewhere psutil,
where it is installed.
"""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

_LIMITS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Files of the group's limit and use, of control groups 2 and 1; `max` in the first is no limit."""
_OF_FILES = ("active_file", "inactive_file")


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes that can still be had, or None where the system does not tell.

    Args:
        root: where `proc` and `sys` are.
    """
    free: list[int] = []
    with suppress(OSError, ValueError, IndexError, StopIteration):
        free.append(1024 * _number(root / "proc/meminfo", "MemAvailable:"))
    if not free:
        return _by_psutil() if root == Path("/") else None
    for limit, used, statistics in _LIMITS:
        with suppress(OSError, ValueError):
            group = root / "sys/fs/cgroup"
            most, now = (int((group / name).read_text()) for name in (limit, used))
            free.append(most - now + _of_files(group / statistics))
    return max(min(free), 0)


def give_back() -> None:
    """Hand memory that was freed back to the system; glibc may keep gigabytes of it."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _of_files(statistics: Path) -> int:
    """Return the bytes of files among what a group uses."""
    n_bytes = 0
    for name in _OF_FILES:
        with suppress(OSError, ValueError, IndexError, StopIteration):
            n_bytes += _number(statistics, name)
    return n_bytes


def _number(path: Path, name: str) -> int:
    """Return the number behind a name that begins a line."""
    lines = (line.split() for line in path.read_text().splitlines())
    return next(int(words[1]) for words in lines if words[:1] == [name])


def _by_psutil() -> int | None:
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)
