"""The process that compiles one preset: its order comes on stdin, its progress goes to stdout.

Each line is JSON: what changes of the `Job` that `compiler` keeps of it.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from steerplug.build import build_preset
from steerplug.errors import SteerplugError
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
        build_preset(preset, session.engine, store=store, near=False, report=_report)
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


def _report(what: str, done: int, total: int) -> None:
    _tell(what=what, done=done, total=total)


def _tell(**changes: Any) -> None:
    print(json.dumps(changes), flush=True)


if __name__ == "__main__":
    main()
