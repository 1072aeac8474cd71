"""`steerplug farm`: presets are built, or measured, for several models by a cluster at once.

The library is this machine's, and so is the cache in which what comes back is kept: afterwards all
is as if `build` or `eval` had made it here, one after another.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from steerplug.commands.build import report_of
from steerplug.commands.build_all import Outcome, show_all
from steerplug.commands.completion import models, preset_names
from steerplug.commands.eval import measured_alone
from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import opened
from steerplug.commands.options import MODEL, Json
from steerplug.commands.output import say, screen
from steerplug.engine.loading import Loading
from steerplug.errors import SteerplugError
from steerplug.files.cache_folder import usable
from steerplug.files.whole_file import write_whole
from steerplug.fit.estimated_progress import EstimatedProgress, Standing
from steerplug.steering.header import kept_files

if TYPE_CHECKING:
    from steerplug.preset import Preset

What = Literal["build", "eval"]
Files = dict[str, bytes]
"""Files of the cache, by their paths in it."""


@dataclass(frozen=True)
class Job:
    """One preset for one model.

    Args:
        what: is to be done.
        preset: what it says.
        model: as the command line named it.
        loading: how it is loaded.
        kept: what this machine has compiled of it.
        force, quick: as for `steerplug build`.
    """

    what: What
    preset: "Preset"
    model: str
    loading: Loading
    kept: Files
    force: bool
    quick: bool

    @property
    def name(self) -> str:
        """What people read of it."""
        return f"{self.preset.name} on {Path(self.model).name}"


@with_loading
def farm(
    what: Annotated[What, typer.Argument(help="What is to be done with each preset.")],
    presets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PRESET]...",
            help="Names or paths; none: all there are.",
            autocompletion=preset_names,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            help="As for build; may be given often.",
            autocompletion=models,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Of the Ray cluster.", show_default="$RAY_ADDRESS, or this machine"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again, even if kept.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Build by a quick fit.")] = False,
    as_json: Json = False,
    *,
    loading: Loading,
) -> None:
    """Build or measure presets for several models, by a Ray cluster."""
    found, broken = _presets(presets or [])
    models, loading = model or [MODEL], replace(loading, n_threads=loading.n_threads or 1)
    jobs = [
        Job(what, preset, one, loading, _kept(preset.name), force, quick)
        for one in models for preset in found
    ]  # fmt: skip
    outcomes = [Outcome(name, error=error, model=one) for one in models for name, error in broken]
    with _cluster(address), _Shown(len(jobs)) as shown:
        from steerplug.cluster.farm import farm as by_cluster

        for done in by_cluster(_work, jobs, loading.n_threads or 1, shown.move):
            outcome = _taken(done.job, done.result, done.error)
            shown.end(done.job, outcome.state)
            outcomes.append(outcome)
    outcomes.sort(key=lambda one: (models.index(one.model), one.preset))
    show_all(outcomes, ", ".join(models), as_json)


def _presets(named: Sequence[str]) -> tuple[list["Preset"], list[tuple[str, str]]]:
    """Return the presets that are meant, and those of all that are broken, each with why."""
    from steerplug.library.presets import list_presets, load_preset

    if named:
        return [load_preset(name) for name in named], []
    listed = list_presets()
    broken = [(one.name, one.error or "it cannot be read.") for one in listed if not one.preset]
    return [one.preset for one in listed if one.preset], broken


def _kept(name: str) -> Files:
    folder = _folder()
    with usable(folder):
        paths = (path for path, _ in kept_files(name, (folder,)))
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _folder() -> Path:
    from steerplug.store.store import Store

    return Store().folder


def _keep(files: Files) -> None:
    folder = _folder()
    with usable(folder):
        for name, content in files.items():
            write_whole(folder / name, content)


def _work(job: Job, report: EstimatedProgress) -> tuple[dict[str, Any], Files]:
    """Do a job where it is to be done; return its report, and the compiled files of its preset."""
    _keep({name: file for name, file in job.kept.items() if not (_folder() / name).exists()})
    with opened(job.model, job.loading) as session:
        if job.what == "build":
            told = report_of(session, job.preset, report, force=job.force, quick=job.quick)
        else:
            told = measured_alone(session, job.preset, report)
    return told, _kept(job.preset.name)


def _taken(job: Job, result: tuple[dict[str, Any], Files] | None, error: str | None) -> Outcome:
    """Keep here what came of a job, and say in short what it was."""
    if result is None:
        return Outcome(job.preset.name, error=error, model=job.model)
    from steerplug.store.measurements import remember

    report, files = result
    try:
        _keep(files)
    except SteerplugError as refused:
        return Outcome(job.preset.name, error=str(refused), model=job.model)
    folder = _folder()
    if job.what == "eval" and report["file"] and (folder / report["file"]).exists():
        remember(folder / report["file"], report["fingerprint"], report["fidelity"])
    return Outcome(job.preset.name, report, model=job.model)


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine.

    Raises:
        SteerplugError: Ray is not installed, or there is no cluster at that address.
    """
    from steerplug.cluster.environment import prepare

    prepare()
    try:
        import ray
    except ModuleNotFoundError:
        raise SteerplugError("a farm needs ray; run `pip install 'steerplug[ray]'`.") from None
    if ray.is_initialized():
        yield
        return
    from steerplug.cluster.starting import started

    with started(address, include_dashboard=None if address else False):
        yield


class _Shown:
    """A bar for each job that is being done, on a terminal; and a line for each that has ended."""

    def __init__(self, n_jobs: int) -> None:
        self._n_jobs, self._n_ended = n_jobs, 0
        self._bars: dict[str, TaskID] = {}
        console = screen(stderr=True)
        self._progress = Progress(
            BarColumn(bar_width=20), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._at_the_end = ExitStack()

    def __enter__(self) -> "_Shown":
        self._at_the_end.enter_context(self._progress)
        return self

    def __exit__(self, *_error: object) -> None:
        self._at_the_end.close()

    def move(self, job: Job, standing: Standing) -> None:
        """Show how far a job is."""
        if job.name not in self._bars:
            self._bars[job.name] = self._progress.add_task(job.name, total=1.0)
        what = f"{job.name}: {standing.what} {standing.done}/{standing.total}"
        self._progress.update(self._bars[job.name], description=what, completed=standing.share)

    def end(self, job: Job, state: str) -> None:
        """Say that a job has ended."""
        self._n_ended += 1
        if job.name in self._bars:
            self._progress.remove_task(self._bars.pop(job.name))
        say(f"[{self._n_ended}/{self._n_jobs}] {job.name}: {state}")
