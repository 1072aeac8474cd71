"""What a shell completes."""

from pathlib import Path

import pytest

from steerplug.commands.completion import mixes, models, preset_names


def test_presets_by_how_they_begin() -> None:
    assert preset_names("pi") == ["pirate"]
    assert {"pirate", "concise"} <= set(preset_names(""))


@pytest.mark.parametrize("start", ["", "0.8*", "0.8*concise + ", "concise - 2*"])
def test_the_last_name_of_a_mix(start: str) -> None:
    assert mixes(f"{start}pi") == [f"{start}pirate"]


def test_models_are_aliases_files_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").mkdir()
    for name in ("small/a.gguf", "small/b.txt", "smart.gguf"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert models("sm") == ["smollm2", "small/", "smart.gguf"]
    assert models("small/") == ["small/a.gguf"]
    assert models(f"{tmp_path}/sma") == [f"{tmp_path}/small/", f"{tmp_path}/smart.gguf"]
