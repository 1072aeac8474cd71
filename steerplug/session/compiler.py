"""Presets are compiled in idle time: one after another, in a process of its own.

    waiting -> running <-> paused -> done | failed

The process is stopped by a signal before a reply begins, and goes on half a second after the last
one ended, so that replies lose nothing to it. What it makes is kept step by step and found by the
next reply that asks; a reply that has begun stays with what carries it. If this process dies, so
does that one, and the next goes on from what was kept.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from steerplug.errors import SteerplugError
from steerplug.session.activity import Activity

log = logging.getLogger("steerplug.compile")

QUIET = 0.5
"""Seconds without a reply after which compiling goes on."""

_LOOK = 0.1
State = Literal["waiting", "running", "paused", "done", "failed"]
_ENDS = ("done", "failed")


@dataclass(frozen=True)
class Job:
    """One preset that is or was compiled.

    Args:
        preset: what a mix calls it.
        state: how far it is.
        what: what is being done, of which `done` of `total` steps are.
        share: of all the work that is done, 0 to 1.
        seconds_left: of work, about, not counting pauses; None until that can be said.
        problem: the sentence on why it failed.
    """

    preset: str
    state: State = "waiting"
    what: str = ""
    done: int = 0
    total: int = 0
    share: float = 0.0
    seconds_left: float | None = None
    problem: str = ""

    def describe(self) -> dict[str, Any]:
        """Return what clients may know of it."""
        return asdict(self)


class Compiler:
    """Compiles presets for one model while no reply is being made.

    Args:
        order: what the process is told besides the preset: how to open the model, and where
            steering is kept.
        activity: the replies that it gives way to.
    """

    def __init__(self, order: dict[str, Any], activity: Activity) -> None:
        self._order, self._activity = order, activity
        self._lock = threading.Condition()
        self._queue: deque[str] = deque()
        self._jobs: dict[str, Job] = {}
        self._process: subprocess.Popen[str] | None = None
        self._is_closed = False
        self._thread: threading.Thread | None = None
        activity.when_busy(self.pause)

    @property
    def jobs(self) -> dict[str, Job]:
        """What was asked for, by preset."""
        with self._lock:
            return dict(self._jobs)

    def ask(self, preset: str) -> Job:
        """Have a preset compiled, unless it already waits or runs; a failed one is tried again.

        Raises:
            SteerplugError: this system cannot stop a process for a while.
        """
        if not hasattr(signal, "SIGSTOP"):
            raise SteerplugError(
                "compiling in idle time stops a process while replies are made, which this system "
                f"cannot do; run `steerplug build {preset} -m MODEL` instead."
            )
        with self._lock:
            known = self._jobs.get(preset)
            if known is None or known.state in _ENDS:
                self._jobs[preset] = Job(preset)
                self._queue.append(preset)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._lock.notify_all()
            return self._jobs[preset]

    def pause(self) -> None:
        """Stop the process until the session is idle; returns when it is stopped."""
        with self._lock:
            self._signal(stop=True)

    def close(self) -> None:
        """End the process; what it had made is kept."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()
            self._lock.notify_all()

    def _work(self) -> None:
        while True:
            with self._lock:
                while not (self._queue or self._is_closed):
                    self._lock.wait()
                if self._is_closed:
                    return
                preset = self._queue[0]
            with self._activity.turn:
                if not self._wait_until_idle():
                    return
                self._compile(preset)

    def _wait_until_idle(self) -> bool:
        """Wait for a quiet moment; False if there will be none."""
        with self._lock:
            while not self._is_closed and self._activity.idle_for() < QUIET:
                self._lock.wait(_LOOK)
            return not self._is_closed

    def _compile(self, preset: str) -> None:
        command = [sys.executable, "-m", "steerplug.session.compile_process"]
        with self._lock:
            if self._is_closed:
                return
            self._process = process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self._jobs[preset] = replace(self._jobs[preset], state="running")
            if not self._activity.idle_for():
                self._signal(stop=True)
        log.info("compiling %s", preset)
        going = threading.Thread(target=self._keep_going, args=(process,), daemon=True)
        going.start()
        self._listen(process, preset)
        code = process.wait()
        if self._jobs[preset].state not in _ENDS:
            cause = f"`steerplug build {preset} -m MODEL` says why"
            told = f"compiling ended with code {code}; {cause}."
            self._note(preset, {"state": "failed", "problem": told})
        with self._lock:
            self._process = None
            self._queue.popleft()

    def _listen(self, process: "subprocess.Popen[str]", preset: str) -> None:
        """Take note of what the process says, until it has said what came of it."""
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdout as lines:
            with suppress(OSError), process.stdin as order:  # its code says that it has ended
                json.dump({**self._order, "preset": preset}, order)
            for line in lines:
                self._note(preset, json.loads(line))
                if self._jobs[preset].state in _ENDS:
                    process.kill()  # what it made is published, and it may be stopped just now

    def _note(self, preset: str, changes: dict[str, Any]) -> None:
        """Take note of what changes of a job, and say at once what came of it."""
        with self._lock:
            self._jobs[preset] = job = replace(self._jobs[preset], **changes)
            is_closed = self._is_closed
        if is_closed:
            return
        if job.state == "done":
            log.info("compiled %s", preset)
        elif job.state == "failed":
            log.warning("%s was not compiled: %s", preset, job.problem)

    def _keep_going(self, process: "subprocess.Popen[str]") -> None:
        """Let a stopped process go on whenever the session has been idle for a while."""
        while process.poll() is None:
            with self._lock:
                self._lock.wait(_LOOK)
                if self._activity.idle_for() >= QUIET:
                    self._signal(stop=False)

    def _signal(self, *, stop: bool) -> None:
        """Stop the process or let it go on; the lock is held."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        preset = self._queue[0]
        job = self._jobs[preset]
        if job.state == ("running" if stop else "paused"):
            os.kill(process.pid, signal.SIGSTOP if stop else signal.SIGCONT)
            self._jobs[preset] = replace(job, state="paused" if stop else "running")
