"""`steerplug bench --fits`: every way that a model can be fitted in, from nothing, side by side."""

import json
import threading
from types import MappingProxyType, SimpleNamespace
from typing import Any

import psutil
import pytest

from steerplug.benchmark import fits
from steerplug.benchmark.fits import Fit, fit_journal
from steerplug.commands.main import main
from steerplug.engine.model import Model
from steerplug.fit.distill import readable
from steerplug.fit.progress import silent
from steerplug.library.presets import load_preset
from tests.helpers.tiny_models import tiny_model

REPORT = {"gap_closed": 0.9, "gap_closed_interval": [0.88, 0.92], "checks": {"steered": 1.0},
          "drift": 0.004}  # fmt: skip
N_BEFORE, N_BYTES = 500_000_000, 60_000_000


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was built, and how; a build holds some memory until it was looked at, then less.

    What the process holds is told, not taken: other tests' garbage leaves it whenever it likes.
    """
    builds: list[tuple[str, Any]] = []
    looks = threading.Semaphore(0)
    held = N_BEFORE

    def look(_process: psutil.Process) -> Any:
        looks.release()
        return SimpleNamespace(uss=held)

    monkeypatch.setattr(psutil.Process, "memory_full_info", look)

    def hold(n_bytes: int) -> None:
        nonlocal held
        held = N_BEFORE + n_bytes
        while looks.acquire(blocking=False):
            pass
        for _ in range(2):  # the first may have begun before
            assert looks.acquire(timeout=60)

    def build(preset: Any, _engine: Any, *, store: Any, force: bool, **how: Any) -> Any:
        assert force
        how.pop("report")
        assert not any(store.folder.iterdir())
        builds.append((preset.name, how))
        hold(N_BYTES)
        hold(N_BYTES // 2)
        return SimpleNamespace(identity=SimpleNamespace(fidelity=MappingProxyType(REPORT)))

    monkeypatch.setattr(fits, "build_preset", build)
    return builds


def test_each_preset_is_fitted_in_every_way_of_the_model(
    built: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["bench", "-m", str(tiny_model("llama")), "--fits", "pirate, formal"]
    assert main(given) == 0
    ways = [
        {"method": None, "quick": True}, {"method": "chain", "quick": False},
        {"method": "psr", "quick": False},
    ]  # fmt: skip
    assert built == [(name, way) for name in ("pirate", "formal") for way in ways]
    said = capsys.readouterr().out
    for words in ("quick", "chain", "psr", "90% (88 to 92)", "90.0%", "100%", "0.004", " GB"):
        assert words in said


@pytest.mark.usefixtures("built")
def test_where_memory_is_short_nothing_is_trained_and_json_has_all_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(readable, "available", lambda: 1)
    assert main(["bench", "-m", str(tiny_model("gemma3n")), "--fits", "pirate", "--json"]) == 0
    quick, chain = json.loads(capsys.readouterr().out)["fits"]
    assert (quick["way"], chain["way"], quick["preset"]) == ("quick", "chain", "pirate")
    assert quick["fidelity"] == REPORT
    assert quick["seconds"] > 0


@pytest.mark.usefixtures("built")
def test_memory_is_the_most_that_a_fit_held() -> None:
    engine: Any = None
    made = fits.fit(load_preset("pirate"), engine, fits.WAYS[0], silent)
    assert made.n_bytes == N_BYTES


def test_a_table_that_was_ended_goes_on_and_a_whole_one_is_made_anew(
    built: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = ["bench", "-m", str(tiny_model("llama")), "--fits", "pirate", "--json"]
    fit = fits.fit

    def ended(preset: Any, engine: Any, way: fits.Way, report: Any) -> fits.Fit:
        if way.name == "psr":
            raise KeyboardInterrupt
        return fit(preset, engine, way, report)

    with monkeypatch.context() as patch:
        patch.setattr(fits, "fit", ended)
        assert main(given) == 130
    capsys.readouterr()
    assert main(given) == 0
    table = json.loads(capsys.readouterr().out)["fits"]
    assert [fit["way"] for fit in table] == ["quick", "chain", "psr"]
    assert all(fit["fidelity"] == REPORT and fit["seconds"] > 0 for fit in table)
    assert [how["method"] for _name, how in built] == [None, "chain", "psr"]
    assert main(given) == 0
    assert len(built) == 6


def test_fits_are_kept_for_a_table_of_the_same_presets_with_the_same_checks() -> None:
    engine: Any = SimpleNamespace(model=Model(tiny_model("llama")))
    preset = load_preset("pirate")
    fit_journal([preset], engine)["quick"] = Fit("pirate", "quick", 1.0, None, {})
    unchecked = preset.model_copy(update={"checks": ()})
    kept = [len(fit_journal([one], engine)) for one in (preset, unchecked)]
    assert kept == [1, 0]


def test_an_unknown_preset_is_one_sentence_before_anything_is_fitted(
    built: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "-m", str(tiny_model("llama")), "--fits", "pirate,nothing-of-it"]) == 2
    assert "nothing-of-it" in capsys.readouterr().err
    assert not built
