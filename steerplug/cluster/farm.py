"""Jobs for a cluster: each is done by whoever has processors free, and tells how far it is.

A job is whatever the work makes of it; the cluster's nodes need steerplug, and the models that jobs
name, but no presets and no shared disk: those travel with the jobs, and what comes of them back.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError

from steerplug.cluster import failures
from steerplug.cluster.replica import node_name
from steerplug.errors import SteerplugError
from steerplug.fit.estimated_progress import EstimatedProgress, Standing

log = logging.getLogger(__name__)

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
    """Where jobs write where they are, and how far; an actor."""

    def __init__(self) -> None:
        self._nodes: dict[int, str] = {}
        self._standings: dict[int, Standing] = {}

    def begin(self, job: int, node: str) -> None:
        """Note where a job is."""
        self._nodes[job] = node

    def write(self, job: int, standing: Standing) -> None:
        """Note how far a job is."""
        self._standings[job] = standing

    def read(self) -> tuple[dict[int, str], dict[int, Standing]]:
        """Return where jobs are, and how far where that is new; by the number of each."""
        new, self._standings = self._standings, {}
        return self._nodes, new


def farm(
    work: Callable[[Job, EstimatedProgress], Result], jobs: Sequence[Job], n_cpus: int,
    show: Callable[[Job, Standing], None],
) -> Iterator[Done[Job, Result]]:  # fmt: skip
    """Yield jobs as they end, however they do; one that fails stops no other.

    Args:
        work: does one job, on some node.
        jobs: all of them; they travel, as their results do.
        n_cpus: processors that each takes.
        show: told now and then how far a job is.
    """
    board: Any = ray.remote(num_cpus=0)(Board).remote()
    task: Any = ray.remote(num_cpus=n_cpus)(_do)
    running = {task.remote(work, job, i, board): i for i, job in enumerate(jobs)}
    nodes: dict[int, str] = {}
    while running:
        ended, _ = ray.wait(list(running), timeout=_GLANCE)
        with suppress(RayError):  # the board may go with its node, and only shows
            nodes, standings = ray.get(board.read.remote())
            for i, standing in standings.items():
                show(jobs[i], standing)
        for reference in ended:
            i = running.pop(reference)
            try:
                result, error = ray.get(reference)
            except RayError as failure:
                result, error = None, failures.sentence(failure, nodes.get(i, ""))
            yield Done(jobs[i], result, error)


def _do(
    work: Callable[[Job, EstimatedProgress], Result], job: Job, number: int, board: Any
) -> tuple[Result | None, str | None]:
    """Do a job; an error is a sentence that names the node."""
    node = node_name()
    board.begin.remote(number, node)
    try:
        progress = EstimatedProgress(lambda standing: board.write.remote(number, standing))
        return work(job, progress), None
    except SteerplugError as error:
        return None, f"node {node}: {error}"
    except Exception as error:
        log.exception("a job failed")
        return None, (
            f"node {node}: the job failed ({failures.words(error)}); mend that there if you can, "
            "or report it with the log of the worker in Ray's `session_latest/logs` there."
        )
