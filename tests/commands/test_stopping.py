"""Ctrl-C in the middle of a build: the process ends soon, and what was paid for is kept."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands.test_process import ROOT, environment
from tests.helpers.tiny_models import tiny_model

__all__ = ["environment"]

SOON = 30
"""Seconds on a machine that is busy; the builds below would take minutes more."""

BUILD = """
import sys
from dataclasses import replace
from steerplug.preset.methods import METHODS
for method, n_questions in (("psr", 8), ("chain", 2)):
    METHODS[method] = replace(METHODS[method], n_questions=n_questions)
from steerplug.commands.main import main
sys.exit(main(["build", "sailor", "--method", sys.argv[1], "--model", sys.argv[2]]))
"""
SAILOR = """\
schema: steerplug/preset-v1
name: sailor
teacher: {system: You are a sailor. Answer in one short sentence.}
fit: {layers: [1, 2]}
"""
LATE = """
import time
from steerplug.commands.stopping import ending_soon
try:
    with ending_soon():
        print("begun", flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    time.sleep(600)
"""


def interrupted(
    program: list[str], environment: dict[str, str], is_time: Callable[[str], bool]
) -> tuple[int, list[str]]:
    """Run a program until it says a line, then press Ctrl-C; return its code and last lines."""
    process = subprocess.Popen(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    while not is_time(line := process.stdout.readline()):
        assert line, "it ended by itself"
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=SOON)
    assert "Traceback" not in said
    return process.returncode, said.splitlines()


def _n_steps(kept: Any) -> int:
    """Return how many steps an interrupted training had made."""
    (progress,) = (kept[name] for name in kept if name.endswith(".progress"))
    return int(progress[0])


def test_what_does_not_end_by_itself_is_ended() -> None:
    program = [sys.executable, "-c", LATE]
    code, said = interrupted(program, dict(os.environ, PYTHONPATH=str(ROOT)), "begun\n".__eq__)
    assert (code, said) == (130, ["steerplug: stopped."])


def test_a_process_that_ends_looks_for_no_garbage() -> None:
    program = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0));"
        "from steerplug.commands.main import main; main(['--version'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ended.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize(
    ("stage", "method", "is_kept"),
    [
        ("training, pass 2", "psr", lambda kept: _n_steps(kept) >= 2),
        ("trying strengths", "chain", lambda kept: "2.W" in kept),
    ],
)
def test_ctrl_c_in_any_stage_ends_a_build_and_keeps_what_was_done(
    stage: str, method: str, is_kept: Callable[[Any], bool],
    environment: dict[str, str], tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "presets" / "sailor.yaml").write_text(SAILOR)
    program = [sys.executable, "-c", BUILD, method, str(tiny_model("llama"))]
    code, said = interrupted(program, environment, lambda line: stage in line)
    assert code == 130
    assert said[-1] == "steerplug: stopped."
    left = [path for path in (tmp_path / "cache").rglob("*.npz") if path.is_file()]
    assert len(left) == 1
    with np.load(left[0]) as kept:
        assert is_kept(kept)
