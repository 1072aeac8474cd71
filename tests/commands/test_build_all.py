"""One library, many models: `steerplug build --all`, and files for several models side by side."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerplug.build import build_preset, find_built, store_key
from steerplug.commands.main import main
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.errors import FitError
from steerplug.library.presets import list_presets, load_preset, shipped_folder
from steerplug.preset import Preset
from steerplug.steering.header import kept_files, read_claims, steering_claims
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta, Steering
from steerplug.store.measurements import remember
from steerplug.store.other_quantisation import find_near
from steerplug.store.store import Key, Store
from tests.helpers.presets import SAD_PRESET

DEEP = SAD_PRESET.replace("name: sad", "name: deep").replace("[14]", "[99]")
FIDELITY = {
    "gap_closed": 0.5, "gap_closed_interval": [0.4, 0.6], "prompt_tokens_saved": 31.0,
    "checks": {"bare": 0.0, "prompted": 1.0, "steered": 0.75, "n": 4},
}  # fmt: skip


def plant(preset: Preset, engine: Engine, store: Store, size: float = 1.0) -> Steering:
    """Put steering of one block in the place of a preset's."""
    key, model = store_key(preset, engine), engine.model
    z = np.full(model.n_embd, size, np.float32)
    steering = Steering(preset.name, model.n_embd, model.n_layer, {5: Delta.constant(z)})
    identity = Identity(
        preset.name, preset.version, preset.digest, key.model, model.architecture,
        key.chat_template, key.method, 0, "0", fidelity=FIDELITY,
    )  # fmt: skip
    store.publish(key, steering, identity)
    return steering


@pytest.fixture
def home(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of what ships, one good preset, one that asks too much and one that is broken."""
    (tmp_path / "presets").mkdir()
    for name, text in (("sad", SAD_PRESET), ("deep", DEEP), ("torn", "name: torn\n")):
        (tmp_path / "presets" / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path / "presets"))
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))
    store = Store()
    for one in list_presets():
        if one.preset and one.shipped and one.preset.contrast:
            plant(one.preset, engine, store)


@pytest.mark.usefixtures("home")
def test_all_presets_are_built_what_fails_is_told_and_a_second_run_goes_on_from_there(
    capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--all"]) == 2
    said = capsys.readouterr()
    rows = {row[0]: row[1:] for row in (line.split("\t") for line in said.out.splitlines())}
    assert set(rows) == {one.name for one in list_presets()}
    assert rows["deep"] == ["failed", "-", "-", "-"]
    assert rows["torn"] == ["failed", "-", "-", "-"]
    assert rows["sad"] == ["built", "-", "-", "-"]
    assert rows["anger-calm"] == ["kept", "50% (40 to 60)", "75%", "31"]
    assert rows["pirate"][0] == "kept"
    n = len(rows)
    progress = [line for line in said.err.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in progress] == [f"[{i}/{n}" for i in range(1, n + 1)]
    complaints = [line for line in said.err.splitlines() if line.startswith("steerplug: ")]
    assert complaints[0].startswith("steerplug: `deep` was not built: `deep` asks for block 99")
    assert complaints[1].startswith("steerplug: `torn` was not built: ")
    assert len(complaints) == 2

    assert main(["build", "--all", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    states = {one["preset"]: one["state"] for one in report["presets"]}
    assert states["sad"] == "kept"
    assert report["n_failed"] == 2


@pytest.mark.parametrize("words", [["build"], ["build", "sad", "--all"]])
def test_one_preset_or_all_must_be_said(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "name one preset to build, or say --all" in capsys.readouterr().err


@pytest.mark.usefixtures("home")
def test_what_came_in_a_pack_is_shown_as_its_author_s_claim_until_it_was_measured_here(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("STEERPLUG_PACKS", str(tmp_path / "packs"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sea").mkdir()
    (tmp_path / "sea" / "glum.yaml").write_text(SAD_PRESET.replace("name: sad", "name: glum"))
    plant(load_preset("sea/glum.yaml"), engine, Store(tmp_path / "sea" / "compiled"))
    assert main(["pack", "sea"]) == 0
    assert main(["add", "./sea", "--yes"]) == 0
    (listing,) = [one for one in list_presets() if one.pack]
    monkeypatch.setattr("steerplug.library.presets.list_presets", lambda: [listing])
    capsys.readouterr()

    def said(*words: str) -> str:
        assert main(words) == 0
        return capsys.readouterr().out

    def report() -> tuple[str | None, float]:
        found = json.loads(said("build", "glum", "--json"))
        return found["claimed_by"], found["fidelity"]["gap_closed"]

    assert report() == ("sea@1.0.0", 0.5)
    assert said("build", "glum").startswith("glum is ready; it came with sea@1.0.0.")
    assert "claimed gap closed    50% (40 to 60) of the way from the bare" in said("build", "glum")
    row = ["glum", "kept", "50% (40 to 60) claimed", "75% claimed", "31 claimed"]
    assert said("build", "--all").rstrip("\n").split("\t") == row
    listed = json.loads(said("presets", "--json"))["presets"][0]
    assert (listed["measured"], listed["claimed"]["gap_closed"]) == (None, 0.5)

    (numbers,) = (tmp_path / "packs").rglob("glum-*.gguf")
    remember(numbers, engine.model.fingerprint, {**FIDELITY, "gap_closed": 0.2})
    assert report() == (None, 0.2)
    assert "claimed" not in said("build", "glum")
    assert said("build", "--all").split("\t")[2] == "20% (40 to 60)"
    listed = json.loads(said("presets", "--json"))["presets"][0]
    assert (listed["measured"]["gap_closed"], listed["claimed"]) == (0.2, None)


# --- several models ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(other_path: Path) -> Iterator[Engine]:
    """An engine on another file of the same model."""
    model = Model(other_path)
    engine = Engine(model, n_ctx=512, n_threads=1)
    yield engine
    engine.close()
    model.close()


def test_files_for_two_models_lie_side_by_side_and_each_model_gets_its_own(
    engine: Engine, other: Engine, tmp_path: Path
) -> None:
    store, preset = Store(tmp_path), Preset.from_yaml(SAD_PRESET.encode())
    first, second = plant(preset, engine, store, 1.0), plant(preset, other, store, 2.0)
    found = [build_preset(preset, one, store=store) for one in (engine, other)]
    assert [one.steering.digest for one in found] == [first.digest, second.digest]
    assert len({one.path for one in found}) == 2
    assert {said["model"] for _, said in kept_files("sad", [tmp_path])} == {
        engine.model.fingerprint, other.model.fingerprint
    }  # fmt: skip


def test_a_near_miss_is_used_with_a_warning_and_an_own_build_goes_before_it(
    engine: Engine, other: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, preset = Store(tmp_path), Preset.from_yaml(SAD_PRESET.encode())
    near = plant(preset, engine, store)
    with caplog.at_level(logging.WARNING):
        found = build_preset(preset, other, store=store)
    assert found.steering.digest == near.digest
    assert found.path == store.path(store_key(preset, engine))
    assert "`sad` was built for another quantisation, version or LoRA of" in caplog.text
    assert "`steerplug eval` measures it here" in caplog.text
    assert find_built(preset, other, store=store) is None
    caplog.clear()
    own = plant(preset, other, store, 2.0)
    assert build_preset(preset, other, store=store).steering.digest == own.digest
    assert build_preset(preset, engine, store=store).steering.digest == near.digest
    assert caplog.text == ""


def test_who_builds_for_a_model_gets_nothing_near(
    engine: Engine, other: Engine, tmp_path: Path
) -> None:
    store, preset = Store(tmp_path), Preset.from_yaml(DEEP.encode())
    plant(preset, engine, store)
    assert build_preset(preset, other, store=store).from_store
    with pytest.raises(FitError, match="asks for block 99"):
        build_preset(preset, other, store=store, near=False)


def test_what_ships_compiled_is_near_enough_to_spare_another_file_the_training(
    other: Engine, tmp_path: Path
) -> None:
    found = build_preset(load_preset("pirate"), other, store=Store(tmp_path))
    assert found.path.is_relative_to(shipped_folder())
    assert list(tmp_path.iterdir()) == []


def test_what_ships_compiled_is_not_taken_for_another_model_of_the_same_shape(
    other: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other.model, "outer_norms", "0" * 64)
    store = Store(tmp_path)
    for listed in list_presets():
        assert find_built(load_preset(listed.name), other, store=store, near=True) is None


CHANGES: list[Callable[[Identity], Identity]] = [
    lambda one: replace(one, preset_digest="0" * 64),
    lambda one: replace(one, chat_template="0" * 64),
    lambda one: replace(one, model=one.model.replace("30-", "31-")),
    lambda one: replace(one, model=one.model.replace("llama", "qwen2")),
    lambda one: replace(one, outer_norms="0" * 64),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_in_more_than_the_file_is_not_near(
    change: Any, engine: Engine, other: Engine, tmp_path: Path
) -> None:
    store, preset = Store(tmp_path), Preset.from_yaml(SAD_PRESET.encode())
    planted = plant(preset, engine, store)
    key = store_key(preset, engine)
    found = store.find(key, n_embd=planted.n_embd, n_layer=planted.n_layer)
    assert found
    said = change(found[1])
    changed = replace(key, preset_digest=said.preset_digest, model=said.model,
                      chat_template=said.chat_template)  # fmt: skip
    store.path(key).unlink()
    store.publish(changed, planted, said)
    wanted = store_key(preset, other)
    assert near(wanted, other, store) is None
    for known in ("", other.model.outer_norms):
        store.publish(key, planted, replace(found[1], outer_norms=known))
        assert near(wanted, other, store) is not None
    edited = Preset.from_yaml(SAD_PRESET.replace("[14]", "[15]").encode())
    assert near(store_key(edited, other), other, store) is None


def test_a_near_miss_that_was_measured_here_is_used_with_what_was_found(
    engine: Engine, other: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path))
    store, preset = Store(), Preset.from_yaml(SAD_PRESET.encode())
    plant(preset, engine, store)
    measured = {"gap_closed": 0.3, "gap_closed_interval": [0.2, 0.4]}
    remember(store.path(store_key(preset, engine)), other.model.fingerprint, measured)
    with caplog.at_level(logging.WARNING):
        build_preset(preset, other, store=store)
    assert "Measured here, it closes 30% (20 to 40) of the gap to its prompt;" in caplog.text
    assert "`steerplug eval` measures" not in caplog.text


def near(key: Key, engine: Engine, store: Store) -> Any:
    norms = engine.model.outer_norms
    return find_near(key, norms, [store.folder], lambda _: None, n_embd=576, n_layer=30)


def test_a_file_is_read_for_its_claims_without_trust(
    engine: Engine, tmp_path: Path, model_path: Path
) -> None:
    store, preset = Store(tmp_path), Preset.from_yaml(SAD_PRESET.encode())
    plant(preset, engine, store)
    path = store.path(store_key(preset, engine))
    said = steering_claims(path)
    assert (said["preset"], said["n_embd"], said["strength_max"]) == ("sad", 576, 2.0)
    assert said["fidelity"] == FIDELITY
    whole = path.read_bytes()
    for n in range(0, 1200, 7):  # cut anywhere, it claims nothing
        path.write_bytes(whole[:n])
        assert steering_claims(path) == {}
    path.write_bytes(whole[:24].replace(b"GGUF", b"GGML") + whole[24:])
    assert read_claims(path) == {}
    path.write_bytes(whole[:16] + b"\xff" * 16 + whole[32:])
    assert read_claims(path) == {}
    assert read_claims(model_path)["general.architecture"].value == "llama"
    assert read_claims(tmp_path / "gone.gguf") == {}
