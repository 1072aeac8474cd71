"""`steerplug build --both-scopes`: a preset built for replies and for all tokens, side by side."""

from pathlib import Path

import numpy as np
import pytest

from steerplug.commands.main import main
from steerplug.engine.engine import Engine
from steerplug.library.presets import load_preset
from steerplug.steering.value import Delta, Scope, Steering
from steerplug.store.store import Store
from tests.helpers.command import Ended, plant

TEACHER = """\
schema: steerplug/preset-v1
name: sailor
teacher: {system: Answer like a sailor.}
fit: {method: chain}
scope: all
"""
CONTRAST = """\
schema: steerplug/preset-v1
name: glad
contrast: {positive: [Love], negative: [Hate]}
fit: {method: mean, layers: [5], coefficient: 1.0}
"""
CLOSED: dict[Scope, float] = {"response": 0.83, "all": 0.91}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two presets; the steering of one is kept for both scopes, each with its own figures."""
    (tmp_path / "presets").mkdir()
    for name, text in (("sailor", TEACHER), ("glad", CONTRAST)):
        (tmp_path / "presets" / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path / "presets"))
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))
    for scope, closed in CLOSED.items():
        preset = load_preset("sailor").model_copy(update={"scope": scope})
        z = np.ones(engine.model.n_embd, np.float32)
        steering = Steering(
            "sailor", engine.model.n_embd, engine.model.n_layer, {5: Delta.constant(z)}, scope
        )
        plant(preset, steering, engine, Store(),
              fidelity={"gap_closed": closed, "neutral_kl": 0.004, "checks": {"steered": 1.0}})


def build(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    code = main(["build", *words])
    said = capsys.readouterr()
    return Ended(code, said.out, said.err)


def test_each_scope_has_its_figures_and_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    ended = build(capsys, "sailor", "--both-scopes")
    assert ended.code == 0, ended.err
    rows = [line.split(maxsplit=4) for line in ended.out.splitlines() if "0.004" in line]
    assert [row[:4] for row in rows] == [
        ["response", "83%", "100%", "0.004"], ["all", "91%", "100%", "0.004"],
    ]  # fmt: skip
    assert "of each preset alone" in rows[1][4]
    assert "`sailor` uses scope `all`" in ended.out


def test_json_holds_both_reports(capsys: pytest.CaptureFixture[str]) -> None:
    said = build(capsys, "sailor", "--both-scopes", "--json").json()
    assert (said["preset"], said["uses"]) == ("sailor", "all")
    reports = said["scopes"]
    assert {scope: one["fidelity"]["gap_closed"] for scope, one in reports.items()} == CLOSED
    assert [one["scope"] for one in reports.values()] == list(CLOSED)
    assert reports["all"]["path"] != reports["response"]["path"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("glad", "--both-scopes"), "`glad` has no teacher"),
        (("--all", "--both-scopes"), "name it instead of --all"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    ended = build(capsys, *words)
    assert ended.code == 2
    assert why in ended.err
