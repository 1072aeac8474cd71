"""llama.cpp's log: silent, handed to Python's `logging`, its last complaint kept for our errors."""

import ctypes
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from llama_cpp import llama_cpp as llama

_logger = logging.getLogger("steerplug.llama")
_logger.addHandler(logging.NullHandler())
_complaints: deque[tuple[int, str]] = deque(maxlen=8)
_overhearing: list[list[str]] = []
_LEVELS = {2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}


def _receive(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").strip()
    if level in (3, 4) and line:
        _complaints.append((level, line))
    for lines in _overhearing:
        lines.append(line)
    _logger.log(_LEVELS.get(level, logging.DEBUG), line)


_callback = llama.llama_log_callback(_receive)


def take_over() -> None:
    """Route llama.cpp's log to the logger `steerplug.llama` and forget earlier complaints."""
    forget()
    llama.llama_log_set(_callback, ctypes.c_void_p(0))


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


def complaint() -> str:
    """Return the most telling line since `forget`: the first error, else the first warning."""
    _level, line = max(_complaints, key=lambda line: line[0], default=(0, "no reason given"))
    return line.split(": ", 1)[-1]
