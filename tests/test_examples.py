"""The examples are part of the documentation, so they run."""

import runpy
import sys
from pathlib import Path

import pytest

from steerplug.fit import measure

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.fixture
def one_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let blocks be chosen by what follows one opening."""
    monkeypatch.setattr(measure, "OPENINGS", measure.OPENINGS[:1])


@pytest.mark.usefixtures("quick_smollm2", "short_replies", "one_opening")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_prints_something(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out) > 100
