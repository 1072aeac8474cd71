"""How many processors are really at hand: what may run this process, within the quota of its group.

More threads than that make decoding many times slower, for ggml's threads spin while they wait for
each other. A container's quota does not show in the number of processors: it is a share of time,
kept by control groups, those of the whole path from the root to the process.

    version 2   /sys/fs/cgroup/PATH/cpu.max                         "QUOTA PERIOD" or "max PERIOD"
    version 1   /sys/fs/cgroup/cpu/PATH/cpu.cfs_quota_us, cpu.cfs_period_us      quota -1: no limit

Source: the Linux kernel's documentation of control groups.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_NO_LIMIT = float(2**31)


def n_processors() -> int:
    """Return how many threads can run at once; at least 1."""
    return max(1, min(_allowed(), int(quota())))


def quota(root: Path = Path("/")) -> float:
    """Return the processors' worth of time that this process may use; a great number for no limit.

    Args:
        root: where `proc` and `sys` are.
    """
    lines: list[str] = []
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    return min((limit for line in lines for limit in _limits(line, root)), default=_NO_LIMIT)


def _limits(line: str, root: Path) -> Iterator[float]:
    """Yield the limits on the path of one group: `0::/a/b` or `4:cpu,cpuacct:/a/b`."""
    _number, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if controllers and "cpu" not in controllers.split(","):
        return
    mounts = [root / "sys/fs/cgroup"]
    if controllers:
        mounts = [mounts[0] / name for name in ("cpu", controllers)]
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for mount in mounts:
        for depth in range(len(parts) + 1):
            with suppress(OSError, ValueError, ZeroDivisionError):
                yield _limit(mount.joinpath(*parts[:depth]), version_1=bool(controllers))


def _limit(group: Path, *, version_1: bool) -> float:
    if version_1:
        time, period = (
            (group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
        )
    else:
        time, period = (group / "cpu.max").read_text().split()
    return _NO_LIMIT if time in ("max", "-1") else float(time) / float(period)


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
