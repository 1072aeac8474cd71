"""The examples are part of the documentation, so they run."""

import runpy
import sys
from pathlib import Path

import pytest

from steerplug import model_file
from steerplug.fit import measure

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.fixture
def quick(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let examples open the model as a fit reads it, and choose blocks by one opening."""
    monkeypatch.setattr(model_file, "_packaged", lambda _alias: quick_path)
    monkeypatch.setattr(measure, "OPENINGS", measure.OPENINGS[:1])


@pytest.mark.usefixtures("quick", "short_replies")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_prints_something(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out) > 100
