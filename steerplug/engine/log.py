"""llama.cpp's log: silent, handed to Python's `logging`, its last complaint kept for our errors."""

import ctypes
import logging
from collections import deque

from llama_cpp import llama_cpp as llama

_logger = logging.getLogger("steerplug.llama")
_complaints: deque[str] = deque(maxlen=8)
_LEVELS = {2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}


def _receive(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").strip()
    if level >= 3 and line:
        _complaints.append(line)
    _logger.log(_LEVELS.get(level, logging.DEBUG), line)


_callback = llama.llama_log_callback(_receive)


def take_over() -> None:
    """Route llama.cpp's log to the logger `steerplug.llama` and forget earlier complaints."""
    _complaints.clear()
    llama.llama_log_set(_callback, ctypes.c_void_p(0))


def complaint() -> str:
    """Return the most telling line of the last failure: the first error after `take_over`."""
    lines = [line.split(": ", 1)[-1] for line in _complaints]
    return lines[0] if lines else "no reason given"
