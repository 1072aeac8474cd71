"""What of a farm needs no cluster: what travels, and what becomes of what cannot be kept."""

from pathlib import Path

import numpy as np
import pytest

from steerplug.commands import farm
from steerplug.engine.loading import Loading
from steerplug.errors import StoreError
from steerplug.library.presets import load_preset
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta, Steering
from steerplug.store.store import Key, Store

NAMES = ("sea.pirate", "sea_pirate", "sea-pirate", "sea", "sea.pirate.2")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path))
    return tmp_path


def kept(preset: str) -> str:
    """Keep steering of a preset here, and return its place."""
    key = Key(preset, "d", "llama-8x2", "t", "mean", 1)
    identity = Identity(preset, "1.0.0", "d", key.model, "llama", "t", "mean", 0, "0")
    steering = Steering(preset, 8, 2, {1: Delta.constant(np.ones(8, np.float32))})
    path = Store().publish(key, steering, identity)
    return path.relative_to(Store().folder).as_posix()


def test_what_is_kept_of_a_preset_travels_whatever_its_name_and_nothing_else() -> None:
    for name, place in [(name, kept(name)) for name in NAMES]:
        assert list(farm._kept(name)) == [place]


def test_what_cannot_be_kept_is_its_job_s_sentence_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a-file"
    file.touch()
    monkeypatch.setenv("STEERPLUG_CACHE", str(file))
    job = farm.Job("build", load_preset("pirate"), "m.gguf", Loading(), {}, False, False)
    outcome = farm._taken(job, ({"from_cache": False}, {"m/pirate-0.gguf": b""}), None)
    assert outcome.state == "failed"
    assert outcome.error
    assert f"the cache folder {file} cannot be used" in outcome.error
    with pytest.raises(StoreError, match="set STEERPLUG_CACHE to a folder with space"):
        farm._keep({"m/pirate-0.gguf": b""})
