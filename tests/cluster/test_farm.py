"""Jobs whose node, process or disk goes: each is one sentence, and all others are done.

Ray is stood in for here; `test_ray` farms on a cluster.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from steerplug.errors import SteerplugError, StoreError
from steerplug.fit.estimated_progress import EstimatedProgress

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # of Ray's

NODE = "10.0.0.2 (abcdef01)"


class StandIn:
    """Ray, in this process: whatever is asked for is done at once, or fails as it is told to."""

    def __init__(self, failures: dict[str, BaseException], board_fails: bool = False) -> None:
        self._failures, self._board_fails = failures, board_fails
        self._results: dict[str, Any] = {}

    def remote(self, **_options: Any) -> Callable[[Any], Any]:
        return lambda made: _Class(self, made) if isinstance(made, type) else _Method(self, made)

    def wait(self, references: list[str], timeout: float) -> tuple[list[str], list[str]]:
        assert timeout
        return references[:1], references[1:]

    def get(self, reference: str) -> Any:
        result = self._results[reference]
        if isinstance(result, BaseException):
            raise result
        return result

    def call(self, function: Any, arguments: tuple[Any, ...]) -> str:
        from ray.exceptions import ActorDiedError

        reference = f"reference {len(self._results)}"
        self._results[reference] = None
        result = function(*arguments)
        if function.__name__ == "_do":
            result = self._failures.get(arguments[1], result)
        elif self._board_fails:
            result = ActorDiedError()
        self._results[reference] = result
        return reference


class _Method:
    def __init__(self, ray: StandIn, function: Any) -> None:
        self._ray, self._function = ray, function

    def remote(self, *arguments: Any) -> str:
        return self._ray.call(self._function, arguments)


class _Class:
    def __init__(self, ray: StandIn, made: type) -> None:
        self._ray, self._made = ray, made

    def remote(self) -> Any:
        it = self._made()

        class Actor:
            def __getattr__(_self, name: str) -> _Method:
                return _Method(self._ray, getattr(it, name))

        return Actor()


def work(job: str, _report: EstimatedProgress) -> str:
    """Do a job by its name."""
    if job == "refused":
        raise StoreError("the cache is full; make space.")
    if job == "disk":
        raise OSError(28, "No space left on device")
    if job == "fault":
        raise KeyError("a\nb")
    return f"{job} is done"


Farmed = Callable[..., Iterator[Any]]


@pytest.fixture
def farmed(monkeypatch: pytest.MonkeyPatch) -> Farmed:
    from steerplug.cluster import farm as module

    def farmed(jobs: list[str], *how: Any) -> Iterator[Any]:
        monkeypatch.setattr(module, "ray", StandIn(*how))
        monkeypatch.setattr(module, "node_name", lambda: NODE)
        return module.farm(work, jobs, 1, lambda *_: None)

    return farmed


def test_what_a_job_raises_is_its_sentence_and_all_others_are_done(farmed: Farmed) -> None:
    told = {one.job: one for one in farmed(["a", "refused", "disk", "fault", "b"], {})}
    assert [told[job].result for job in "ab"] == ["a is done", "b is done"]
    assert told["refused"].error == f"node {NODE}: the cache is full; make space."
    for job, why in {"disk": "OSError: [Errno 28] No space left on device",
                     "fault": r"KeyError: 'a\nb'"}.items():  # fmt: skip
        error = told[job].error
        assert error.startswith(f"node {NODE}: the job failed ({why}); mend that there ")
        assert "\n" not in error


def test_what_ray_raises_for_a_job_is_its_sentence_and_all_others_are_done(
    farmed: Farmed,
) -> None:
    from ray import exceptions as of_ray

    foreign = of_ray.RayTaskError("_do", "Traceback\n", ModuleNotFoundError("No module `x`"))
    failures = {
        "memory": (of_ray.OutOfMemoryError("much\ntext"), "memory was nearly full; have fewer"),
        "killed": (of_ray.WorkerCrashedError(), "was killed or crashed"),
        "node": (of_ray.NodeDiedError("much\ntext"), "start Ray there again"),
        "lost": (of_ray.ObjectLostError("00", None, ""), "start this again."),
        "full": (of_ray.OutOfDiskError("much\ntext"), "make space there."),
        "foreign": (foreign, "(ModuleNotFoundError: No module `x`); install the same steerplug"),
        "alike": (foreign.as_instanceof_cause(), "install the same steerplug on all nodes."),
        "other": (of_ray.TaskUnschedulableError("no\nroom"), "(TaskUnschedulableError: "),
    }
    raised = {job: error for job, (error, _) in failures.items()}
    told = {one.job: one for one in farmed(["a", *failures, "b"], raised)}
    assert [told[job].result for job in "ab"] == ["a is done", "b is done"]
    for job, (_, words) in failures.items():
        error = told[job].error
        assert told[job].result is None
        assert error.startswith(f"node {NODE}: ")
        assert words in error
        assert error.endswith(".")
        assert "\n" not in error


def test_a_board_that_is_gone_stops_nothing(farmed: Farmed) -> None:
    from ray.exceptions import WorkerCrashedError

    a, killed = farmed(["a", "killed"], {"killed": WorkerCrashedError()}, True)
    assert a.result == "a is done"
    assert killed.error.startswith("the cluster: the process of the job was killed")


@pytest.mark.parametrize(
    ("address", "error", "sentence"),
    [
        (None, Exception("The current node timed out during startup.\nSee the logs."),
         r"^Ray did not start on this machine \(Exception: The current node timed out during "),
        ("local", RuntimeError(), r"^Ray did not start on this machine \(RuntimeError\); try"),
        ("10.0.0.9:1", ConnectionError("no answer"),
         r"^there is no Ray cluster at 10\.0\.0\.9:1 \(ConnectionError: no answer\); `ray start"),
    ],
)  # fmt: skip
def test_a_ray_that_does_not_start_is_one_sentence(
    address: str | None, error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from steerplug.cluster.starting import started

    def init(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(SteerplugError, match=sentence), started(address):
        raise AssertionError("it did not start")
