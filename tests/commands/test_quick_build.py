"""`steerplug build --quick`: what is said of a quick fit, wherever its steering is used."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerplug.commands.main import main
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.errors import FitError
from steerplug.evaluate import report
from steerplug.library.presets import load_preset
from steerplug.packs.make import make_pack
from steerplug.session import Session
from steerplug.steering.value import Delta, Steering
from steerplug.store.measurements import recall
from steerplug.store.store import Store
from tests.helpers.command import Call, Ended, plant
from tests.helpers.tiny_models import tiny_model

MODEL = tiny_model("olmo2")
SHORT = ("--max-tokens", "3", "--temperature", "0")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with closing(Engine(Model(MODEL), n_ctx=1024, n_threads=1)) as engine:
        yield engine


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preset that a quick fit made steering of; returns the file."""
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "sailor.yaml").write_text(
        "schema: steerplug/preset-v1\nname: sailor\nteacher: {system: Be a sailor.}\n"
    )
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path / "presets"))
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))
    model = engine.model
    z = np.ones(model.n_embd, np.float32)
    steering = Steering("sailor", model.n_embd, model.n_layer, {1: Delta.constant(z)})
    plant(load_preset("sailor"), steering, engine, Store(),
          fidelity={"quick": True, "gap_closed": 0.8, "n_prompts": 6})  # fmt: skip
    (path,) = (tmp_path / "cache").rglob("*.gguf")
    return path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*words: object) -> Ended:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return call


def test_a_quick_one_is_taken_and_says_so_wherever_it_is_used(call: Call, planted: Path) -> None:
    built = call("build", "sailor", "-m", MODEL, "--quick")
    assert built.code == 0, built.err
    assert "sailor is ready, by a quick fit; it was kept from before." in built.out
    assert "on 6 unseen questions" in built.out
    assert f"`steerplug build sailor -m {MODEL}` goes on to the full fit" in built.err
    said = call("build", "sailor", "-m", MODEL, "--quick", "--json").json()
    assert (said["quick"], said["path"]) == (True, str(planted))
    assert "sailor\tsteering\t0\tof a quick fit" in call("presets", "-m", MODEL).out.splitlines()
    rows = call("presets", "-m", MODEL, "--json").json()["presets"]
    assert [row["name"] for row in rows if row["quick"]] == ["sailor"]
    (line,) = [one for one in call("presets").out.splitlines() if one.startswith("sailor\t")]
    assert line.split("\t")[-2] == "80% quick"
    ran = call("run", "Hi", "-s", "sailor", "-m", MODEL, *SHORT, "--json").json()
    assert ran["receipt"]["steering"][0]["quick"] is True
    assert "steered by sailor (quick)" in call("run", "Hi", "-s", "sailor", "-m", MODEL, *SHORT).err


def test_eval_measures_the_quick_one_and_keeps_that_it_is(
    call: Call, planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Measured:
        def as_dict(self) -> dict[str, Any]:
            return {"gap_closed": 0.7}

    monkeypatch.setattr(report, "measure_steering", lambda *_, **__: Measured())
    said = call("eval", "sailor", "-m", MODEL, "--json").json()
    assert said["steering"][0]["quick"] is True
    (kept,) = recall(planted).values()
    assert kept == {"gap_closed": 0.7, "strength": 1.0, "quick": True}


def test_a_full_one_is_still_to_be_built(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sailor = load_preset("sailor")
    with closing(Session(MODEL, n_ctx=512, n_threads=1)) as session:
        assert session.build(sailor, quick=True).path == planted
        asked: list[str] = []
        monkeypatch.setattr(session.compiler, "ask", asked.append)
        session.compile("sailor")
        assert asked == ["sailor"]
        made: list[dict[str, Any]] = []
        monkeypatch.setattr(
            "steerplug.session.session.build_preset", lambda *_, **said: made.append(said)
        )
        session.build(sailor)
        assert [(one["quick"], one["near"]) for one in made] == [(False, False)]


@pytest.mark.parametrize(("command", "quick"), [("try", True), ("eval", False)])
def test_what_plays_with_a_preset_fits_it_quickly_and_what_measures_it_in_full(
    call: Call, planted: Path, monkeypatch: pytest.MonkeyPatch, command: str, quick: bool
) -> None:
    planted.unlink()
    made: list[bool] = []

    def build(*_: Any, quick: bool, **__: Any) -> None:
        made.append(quick)
        raise FitError("enough")

    monkeypatch.setattr("steerplug.session.session.build_preset", build)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: True)
    assert "enough" in call(command, "sailor", "-m", MODEL).err
    assert made == [quick]


def test_a_pack_leaves_it_out(planted: Path) -> None:
    folder = planted.parents[2] / "presets"
    made = make_pack(folder, planted.parents[1])
    assert not [name for name in made.contents.manifest.files if name.endswith(".gguf")]
