"""The process that compiles one preset: its order comes on stdin, its progress goes to stdout.

A quick fit comes first, so that replies are soon steered, and the full one goes on from it. Each
line is JSON: what changes of the `Job` that `compiler` keeps of it.
"""

import ctypes
import json
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from steerplug.build import build_preset
from steerplug.errors import FitError, SteerplugError
from steerplug.fit.estimated_progress import EstimatedProgress, Standing
from steerplug.library.presets import load_preset
from steerplug.session.session import Session
from steerplug.store.store import Store

_DEATH_OF_PARENT = 1
_QUICK = 0.1
"""Share of the work that is the quick fit, about."""


def main() -> None:
    """Compile the preset of the order."""
    _end_with_parent()
    order: dict[str, Any] = json.load(sys.stdin)
    try:
        preset = load_preset(order["preset"])
        store = Store(Path(order["store"]))
        session = Session(order["model"], store=store, **order["loading"])
        build = partial(build_preset, preset, session.engine, store=store, near=False)
        with suppress(FitError):  # what a few replies do not tell, many may
            build(quick=True, report=EstimatedProgress(_report_quick, clock=_Working()))
        build(report=EstimatedProgress(_report, clock=_Working()))
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


def _report_quick(standing: Standing) -> None:
    """Tell how far the quick fit is; how long all will take, only the full one knows."""
    _tell_standing(standing, _QUICK * standing.share, None)


def _report(standing: Standing) -> None:
    _tell_standing(standing, _QUICK + (1 - _QUICK) * standing.share, standing.seconds_left)


def _tell_standing(standing: Standing, share: float, seconds_left: float | None) -> None:
    _tell(
        what=standing.what, done=standing.done, total=standing.total, share=share,
        seconds_left=seconds_left,
    )  # fmt: skip


def _tell(**changes: Any) -> None:
    print(json.dumps(changes), flush=True)


if __name__ == "__main__":
    main()
