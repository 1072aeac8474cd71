"""Ctrl-C ends a build within two seconds, whatever it is in the middle of.

Python hears Ctrl-C between two of its own steps, and a step of a build may be long: a batch that is
decoded, a gradient, a decomposition. So a thread hears it too, lets the program end by itself for a
moment, and then ends it. Whatever a build keeps is on disk whole or not at all, so nothing is lost.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from steerplug.commands.exit_codes import INTERRUPTED
from steerplug.commands.streams import stopped

GRACE = 1.5
"""Seconds in which the program may end by itself."""

_SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def ending_soon() -> Iterator[None]:
    """Have the process end soon after a Ctrl-C that comes in here, if it does not by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hears, tells = socket.socketpair()
    tells.setblocking(False)
    before = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_wait_on, args=(hears,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        tells.close()


def _wait_on(hears: socket.socket) -> None:
    """End the process once an interrupt is heard; return when there can be none any more."""
    with hears:
        while heard := hears.recv(1):
            if heard[0] == signal.SIGINT:
                time.sleep(GRACE)
                _end()


def _end() -> None:
    shown = _SHOW_CURSOR if sys.stderr.isatty() else ""
    with suppress(OSError):  # nobody reads it any more
        os.write(sys.stderr.fileno(), f"{shown}{stopped()}".encode())
    os._exit(INTERRUPTED)
