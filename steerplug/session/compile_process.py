"""The process that compiles one preset: its order comes on stdin, its progress goes to stdout.

Each line is JSON: what changes of the `Job` that `compiler` keeps of it.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from steerplug.build import build_preset
from steerplug.errors import SteerplugError
from steerplug.fit.whole import Standing, Whole
from steerplug.library.presets import load_preset
from steerplug.session.session import Session
from steerplug.store.store import Store

_DEATH_OF_PARENT = 1


def main() -> None:
    """Compile the preset of the order."""
    _end_with_parent()
    order: dict[str, Any] = json.load(sys.stdin)
    try:
        preset = load_preset(order["preset"])
        store = Store(Path(order["store"]))
        session = Session(order["model"], store=store, **order["loading"])
        report = Whole(_report, clock=_Working())
        build_preset(preset, session.engine, store=store, near=False, report=report)
    except SteerplugError as error:
        _tell(state="failed", problem=str(error))
    else:
        _tell(state="done")


def _end_with_parent() -> None:
    """Have this process killed when its parent dies, stopped or not, where the system can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)
    if hasattr(os, "nice"):
        os.nice(10)


class _Working:
    """A clock that stands still while the process is stopped: no processor works for it then."""

    def __init__(self) -> None:
        self._seconds, self._looked = 0.0, (time.monotonic(), time.process_time())

    def __call__(self) -> float:
        now = time.monotonic(), time.process_time()
        self._seconds += min(b - a for a, b in zip(self._looked, now, strict=True))
        self._looked = now
        return self._seconds


def _report(standing: Standing) -> None:
    _tell(
        what=standing.what, done=standing.done, total=standing.total, share=standing.share,
        seconds_left=standing.seconds_left,
    )  # fmt: skip


def _tell(**changes: Any) -> None:
    print(json.dumps(changes), flush=True)


if __name__ == "__main__":
    main()
