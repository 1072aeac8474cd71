"""The sentence on a job that Ray could not end, for each way in which that happens.

Ray has tried again by then, on whichever nodes are left, where the job itself was not to blame.
"""

from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

_FEWER = "have fewer jobs at once there by more --n-threads for each, or take a smaller model"
_SENTENCES: tuple[tuple[tuple[type[RayError], ...], str], ...] = (
    ((OutOfMemoryError,), f"Ray ended the job, as memory was nearly full; {_FEWER}."),
    (
        (WorkerCrashedError,),
        "the process of the job was killed or crashed, mostly for want of memory, and the log of "
        f"the system says which; {_FEWER}.",
    ),
    (
        (NodeDiedError, LocalRayletDiedError),
        "the node went away or cannot be reached; start Ray there again, and then this.",
    ),
    ((ObjectLostError,), "what came of the job was lost with a node; start this again."),
    ((OutOfDiskError, ObjectStoreFullError), "the disk is full; make space there."),
)


def sentence(error: RayError, node: str) -> str:
    """Return what to say of a job.

    Args:
        error: what Ray raised for it.
        node: where it was last, as people call that; empty if nobody knows.
    """
    where = f"node {node}" if node else "the cluster"
    known = (said for kinds, said in _SENTENCES if isinstance(error, kinds))
    return f"{where}: {next(known, _unknown(error))}"


def words(error: BaseException) -> str:
    """Return the kind and the first line of what a library raised."""
    line = next(filter(None, map(str.strip, str(error).splitlines())), "")
    return f"{type(error).__name__}: {line.rstrip('.')}" if line else type(error).__name__


def _unknown(error: RayError) -> str:
    if isinstance(error, RayTaskError):  # a job answers for itself: it did not begin, or end
        return (
            f"the job cannot be had there ({words(error.cause)}); install the same steerplug on "
            "all nodes."
        )
    return f"Ray cannot do the job ({words(error)}); `ray status` and its logs say more."
