"""`steerplug doctor`'s examination in a child process: whatever dies there, this process tells.

A build of llama.cpp for another processor or a broken driver ends the process that runs it. Here
that is a finding like any other, of the check in which it happened.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from steerplug.commands.examination import REINSTALL, Finding
from steerplug.engine.amx import cause_of_death
from steerplug.engine.loading import DEFAULT, Loading
from steerplug.errors import EngineError

EXAMINATION = "steerplug.commands.examination"


class Checkup:
    """The examination of one model on this machine.

    Args:
        model: how the user calls the model.
        loading: how it is loaded.
    """

    def __init__(self, model: str, loading: Loading = DEFAULT) -> None:
        self.facts: dict[str, Any] | None = None
        self._words = model, json.dumps(vars(loading))
        self._begun = "native library"

    def checks(self) -> Iterator[Finding]:
        """Yield each finding as it is made.

        Raises:
            EngineError: no child process could be started, or it failed by a mistake of ours.
        """
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", EXAMINATION, *self._words],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
                errors="replace",
            )  # fmt: skip
        except OSError as error:
            raise EngineError(
                f"no process could be started for the checks ({error.strerror or error}); free "
                "memory or processes, and try again."
            ) from None
        with child:
            yield from self._findings(child)

    def _findings(self, child: "subprocess.Popen[str]") -> Iterator[Finding]:
        assert child.stdout is not None
        complaint = ""
        for line in child.stdout:
            try:
                report = json.loads(line)
            except ValueError:  # a library, or Python, that prints its last words
                complaint = line.strip() or complaint
            else:
                if (check := self._take(report)) is not None:
                    yield check
        if (death := cause_of_death(child.wait())) is not None:
            yield Finding(self._begun, False, _obituary(death, complaint))
        elif child.returncode:
            raise EngineError(f"the checks ended at `{self._begun}` ({complaint}); report this.")

    def _take(self, report: Any) -> Finding | None:
        """Note a line of the examination; return the finding, if it is one."""
        match report:
            case {"begins": str(name)}:
                self._begun = name
            case {"model": facts}:
                self.facts = facts
            case {"check": {"name": str(name), "ok": bool(ok), "detail": str(detail)}}:
                return Finding(name, ok, detail)
        return None


def _obituary(death: str, complaint: str) -> str:
    reason = f"{death}: {complaint[:200]}" if complaint else death
    return (
        f"llama.cpp ended the process here ({reason}); install it for this machine with "
        f"`{REINSTALL}`, and check the driver of your GPU if you use one."
    )
