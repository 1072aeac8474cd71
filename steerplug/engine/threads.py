"""The threads that compute beside a decoding one, given back when it has done decoding.

llama.cpp computes with OpenMP, which keeps a team of threads for every thread that ever decoded.
GNU's OpenMP lets a team spin between two operations only while all teams of the process have no
more threads than there are processors; with one thread more, every team sleeps and is woken at each
operation, which made decoding up to twice as slow on two cores. So whoever decodes for a while, and
then leaves decoding to others, gives its team back; the next decode makes a new one.
"""

from collections.abc import Callable
from functools import cache

from steerplug.engine import ggml
from steerplug.errors import EngineError

_PAUSE_SOFT = 1


def give_back() -> None:
    """End the team of the calling thread, if OpenMP has made one for it."""
    _pause()(_PAUSE_SOFT)


@cache
def _pause() -> Callable[[int], int]:
    """Return OpenMP's `omp_pause_resource_all`; what does nothing in a build without OpenMP."""
    try:
        pause: Callable[[int], int] = ggml.function("omp_pause_resource_all")
    except EngineError:
        return lambda _kind: 0
    return pause
