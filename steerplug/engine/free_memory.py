"""How much memory this process may still take: the machine's, within the limit of its group.

A cache that is larger would be promised by the system, and the process ended when it is filled.
Source: the Linux kernel's documentation of `/proc/meminfo` and of control groups.
"""

from contextlib import suppress
from pathlib import Path


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes that can still be had, or None where the system does not tell.

    Args:
        root: where `proc` and `sys` are.
    """
    free: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        free.append(next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")))
    if not free:
        return None
    for most, used in _LIMITS:
        with suppress(OSError, ValueError):
            limit = int((root / "sys/fs/cgroup" / most).read_text())
            free.append(limit - int((root / "sys/fs/cgroup" / used).read_text()))
    return max(min(free), 0)


_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
"""Files of the group's limit and use, of control groups 2 and 1; `max` in the first is no limit."""
