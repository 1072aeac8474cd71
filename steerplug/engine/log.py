"""llama.cpp's log: silent, handed to Python's `logging`, its last complaint kept for our errors.

Where it ends the process itself, as when a device is lost, it does so with one sentence of ours.
"""

import ctypes
import logging
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from llama_cpp import llama_cpp as llama

from steerplug.engine import ggml
from steerplug.errors import EngineError

_logger = logging.getLogger("steerplug.llama")
_logger.addHandler(logging.NullHandler())
_complaints: deque[tuple[int, str]] = deque(maxlen=8)
_overhearing: list[list[str]] = []
_unheard: list[None] = []
_LEVELS = {2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}


def _receive(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    if _unheard:
        return
    line = text.decode("utf-8", "replace").strip()
    if level in (3, 4) and line:
        _complaints.append((level, line))
    for lines in _overhearing:
        lines.append(line)
    _logger.log(_LEVELS.get(level, logging.DEBUG), line)


def _take_leave(message: bytes) -> None:
    """Say why llama.cpp is about to abort."""
    reason = message.decode("utf-8", "replace").strip().split(": ", 1)[-1]
    if _complaints:
        reason += f"; {complaint()}"
    os.write(2, (
        f"steerplug: llama.cpp ends this process ({reason}); if it has lost a device, start again "
        "when that is back, or without it (devices: none).\n"
    ).encode())  # fmt: skip


_callback = llama.llama_log_callback(_receive)
_on_abort = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_take_leave)


def take_over() -> None:
    """Route llama.cpp's log to the logger `steerplug.llama` and forget earlier complaints."""
    forget()
    llama.llama_log_set(_callback, ctypes.c_void_p(0))
    with suppress(EngineError):  # a build without it says why in its own words
        ggml.function("ggml_set_abort_callback")(_on_abort)


def forget() -> None:
    """Forget earlier complaints, before a call whose own complaint may be wanted."""
    _complaints.clear()


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Give a list of all that llama.cpp says meanwhile, also of what is no complaint."""
    lines: list[str] = []
    _overhearing.append(lines)
    try:
        yield lines
    finally:
        _overhearing[:] = [other for other in _overhearing if other is not lines]


@contextmanager
def unheard() -> Iterator[None]:
    """Drop all that llama.cpp says meanwhile."""
    _unheard.append(None)
    try:
        yield
    finally:
        _unheard.pop()


def complaint() -> str:
    """Return the most telling line since `forget`: the first error, else the first warning."""
    _level, line = max(_complaints, key=lambda line: line[0], default=(0, "no reason given"))
    return line.split(": ", 1)[-1]
