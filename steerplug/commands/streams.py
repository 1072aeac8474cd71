"""The process's own streams: one is closed, has no size, or what is written to it goes nowhere."""

import errno
import os
import re
import sys
from contextlib import suppress

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def forget_no_size() -> None:
    """Forget a size of the terminal that is none: Rich takes `COLUMNS=0` literally, and is mute."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("0*[1-9][0-9]{0,5}", os.environ.get(name, "")):
            os.environ.pop(name, None)


def open_closed_ones() -> None:
    """Put nothing in the place of a stream that is closed: it is empty, and keeps no word.

    Its number is taken as well; else the next file that is opened would have it, and llama.cpp
    would write its log into that.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def is_of_stdout(error: OSError) -> bool:
    """Say whether an error is that stdout takes no more; those of files say which file it is."""
    return error.filename is None and error.errno in _FULL


def stopped() -> str:
    """Return what is said after Ctrl-C; on a terminal below the line that shows the key."""
    below = "\n" if sys.stderr.isatty() else ""
    return f"{below}steerplug: stopped.\n"


def give_up_stdout() -> None:
    """Have what is left for stdout go nowhere, so that nothing complains when the process ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
