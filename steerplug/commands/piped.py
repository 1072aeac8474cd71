"""A prompt that is piped in, alone or before the one on the command line, as `llm` and `ollama` do.

Beside a prompt that is written out, stdin counts only where it is a pipe or a file: what a service
or a scheduler hands on is neither.
"""

import os
import stat
import sys

from steerplug.errors import RequestError

_MAX_BYTES = 1 << 24


def read_prompt(prompt: str) -> str:
    """Return what to ask; what is piped comes first.

    Args:
        prompt: as on the command line; `-` or nothing stands for stdin.

    Raises:
        RequestError: there is nothing to ask, or stdin is no UTF-8.
    """
    if prompt in ("", "-"):
        text = _stdin() if prompt == "-" or not _is_terminal() else ""
    else:
        text = "\n\n".join(part for part in (_stdin() if _is_piped() else "", prompt) if part)
    if not text.strip():
        raise RequestError("the prompt is empty; write what to ask, or pipe it in.")
    return text


def _is_terminal() -> bool:
    return sys.stdin is None or sys.stdin.isatty()


def _is_piped() -> bool:
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or none at all
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _stdin() -> str:
    content = sys.stdin.buffer.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise RequestError(
            f"stdin is larger than {_MAX_BYTES >> 20} MB, more than a model reads; cut it down."
        )
    try:
        return content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"stdin is not UTF-8 text (byte {error.start}); save it as UTF-8."
        ) from None
