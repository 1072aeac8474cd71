"""Jobs for a cluster: each is done by whoever has processors free, and tells how far it is.

A job is whatever the work makes of it; the cluster's nodes need steerplug, and the models that jobs
name, but no presets and no shared disk: those travel with the jobs, and what comes of them back.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray

from steerplug.cluster.replica import node_name
from steerplug.errors import SteerplugError
from steerplug.fit.whole import Standing, Whole

Job = TypeVar("Job")
Result = TypeVar("Result")

_GLANCE = 0.5
"""Seconds from one look at how far jobs are to the next."""


@dataclass(frozen=True)
class Done(Generic[Job, Result]):
    """A job that has ended, with what came of it, or the sentence on why nothing did."""

    job: Job
    result: Result | None = None
    error: str | None = None


class Board:
    """Where jobs write how far they are; an actor."""

    def __init__(self) -> None:
        self._standings: dict[int, Standing] = {}

    def write(self, job: int, standing: Standing) -> None:
        """Note how far a job is."""
        self._standings[job] = standing

    def read(self) -> dict[int, Standing]:
        """Return what is new, by the number of each job."""
        new, self._standings = self._standings, {}
        return new


def farm(
    work: Callable[[Job, Whole], Result], jobs: Sequence[Job], n_cpus: int,
    show: Callable[[Job, Standing], None],
) -> Iterator[Done[Job, Result]]:  # fmt: skip
    """Yield jobs as they end.

    Args:
        work: does one job, on some node.
        jobs: all of them; they travel, as their results do.
        n_cpus: processors that each takes.
        show: told now and then how far a job is.
    """
    board: Any = ray.remote(num_cpus=0)(Board).remote()
    task: Any = ray.remote(num_cpus=n_cpus)(_do)
    running = {task.remote(work, job, i, board): job for i, job in enumerate(jobs)}
    while running:
        ended, _ = ray.wait(list(running), timeout=_GLANCE)
        for i, standing in ray.get(board.read.remote()).items():
            show(jobs[i], standing)
        for reference in ended:
            job = running.pop(reference)
            result, error = ray.get(reference)
            yield Done(job, result, error)


def _do(
    work: Callable[[Job, Whole], Result], job: Job, number: int, board: Any
) -> tuple[Result | None, str | None]:
    """Do a job; an error is a sentence that names the node."""
    try:
        return work(job, Whole(lambda standing: board.write.remote(number, standing))), None
    except SteerplugError as error:
        return None, f"node {node_name()}: {error}"
