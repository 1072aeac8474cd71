"""How long fits of a preset take, what memory they need, and what comes of them: each from nothing.

    quick    a quick fit, by the method that `auto` takes
    chain    a full one that llama.cpp alone makes
    psr      a full one that is trained, where there can be a torch copy of the model

Seconds are of the whole build, with its replies and its report. Memory is the most that the process
holds of its own beyond what it held before, in bytes: the loaded model is not counted.

A table takes hours, so each fit of it is kept until the last is there: asked for again, it goes on.
"""

import gc
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from steerplug.build import build_preset
from steerplug.engine.engine import Engine
from steerplug.evaluate.journal import Journal, journal_file, key_of
from steerplug.fit.distill.readable import unreadable
from steerplug.fit.progress import Report
from steerplug.preset import Preset
from steerplug.preset.methods import METHODS, MethodName
from steerplug.store.store import Store

_EVERY = 0.05
"""Seconds between two looks at the memory."""


@dataclass(frozen=True)
class Way:
    """How a preset is fitted."""

    name: str
    method: MethodName | None = None
    quick: bool = False


WAYS = (Way("quick", quick=True), Way("chain", "chain"), Way("psr", "psr"))


class Fit(NamedTuple):
    """One fit.

    Args:
        preset: its name.
        way: by which it was made.
        seconds: of the whole build.
        n_bytes: memory, or None where psutil is not installed.
        fidelity: the report on it, as JSON values.
    """

    preset: str
    way: str
    seconds: float
    n_bytes: int | None
    fidelity: Mapping[str, Any]


def ways(engine: Engine) -> Sequence[Way]:
    """Return the ways that a model can be fitted in."""
    can_train = unreadable(engine.model) is None
    return [way for way in WAYS if way.method != "psr" or can_train]


def fit_journal(presets: Sequence[Preset], engine: Engine) -> Journal[Fit]:
    """Return the journal of one table: its fits so far, by preset and way."""
    read = [(preset.digest, preset.checks) for preset in presets]
    decides = read, list(map(astuple, METHODS.values()))
    path = journal_file(engine.model.fingerprint, f"fits-{key_of(decides, engine.model.loading)}")
    return Journal(path, lambda figures: Fit(*figures))


def fit(preset: Preset, engine: Engine, way: Way, report: Report) -> Fit:
    """Fit a preset from nothing, in a folder of its own.

    Raises:
        FitError: it cannot be fitted so on this model.
    """
    with TemporaryDirectory(prefix="steerplug-") as folder, _watched() as most:
        begin = time.perf_counter()
        built = build_preset(
            preset, engine, store=Store(Path(folder)), force=True, method=way.method,
            quick=way.quick, report=report,
        )  # fmt: skip
        seconds = time.perf_counter() - begin
    return Fit(preset.name, way.name, seconds, most.n_bytes, dict(built.identity.fidelity))


@dataclass
class _Most:
    """The most memory that was seen, beyond the first."""

    n_bytes: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self, process: Any, before: int) -> None:
        """Look until it is ended."""
        self.n_bytes = 0
        while not self.ended.wait(_EVERY):
            self.n_bytes = max(self.n_bytes, process.memory_full_info().uss - before)


@contextmanager
def _watched() -> Iterator[_Most]:
    most = _Most()
    try:
        import psutil
    except ImportError:
        yield most
        return
    process = psutil.Process()
    gc.collect()  # what is garbage now would be missing later
    before = process.memory_full_info().uss
    thread = threading.Thread(target=most.watch, args=[process, before], daemon=True)
    thread.start()
    try:
        yield most
    finally:
        most.ended.set()
        thread.join()
