"""A call on a stack of its own, for foreign code that recurses as deep as a text is long.

llguidance recurses once for each rule or reference, in 3 to 4 kB (measured), and a rule takes some
ten bytes of a grammar. A stack that overflows ends the process. One that is large costs address
space, and memory only as far as it is used.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from steerplug.engine import fork

Result = TypeVar("Result")

_LEAST, _BYTES_A_BYTE = 1 << 23, 1 << 10
MOST_BYTES = 1 << 20
"""Of a text that a stack can be made for."""
_starting = threading.Lock()


def _begin_anew() -> None:
    global _starting
    _starting = threading.Lock()


fork.in_child(_begin_anew)


def on_deep_stack(call: Callable[[], Result], text: str) -> Result:
    """Return what a call that reads a text does, made on a thread whose stack suffices for it.

    Raises:
        ValueError: the text is too long, or there is no room for the stack. Errors of the call
            pass unchanged.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it takes {len(text)} characters, and may take {MOST_BYTES}")
    result: Future[Result] = Future()

    def work() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    with _starting:
        before = threading.stack_size(_LEAST + _BYTES_A_BYTE * len(text))
        try:
            threading.Thread(target=work, name="steerplug deep stack", daemon=True).start()
        except RuntimeError as error:
            raise ValueError(f"there is no room to read it: {error}") from None
        finally:
            threading.stack_size(before)
    return result.result()
