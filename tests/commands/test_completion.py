"""What a shell completes."""

from pathlib import Path

import pytest

from steerplug.commands.app import command_line
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


NEW = {("build", "joint"), ("import", "as_preset"), ("page", "presets")}
"""What a command calls so that is not there yet, or a switch."""

BEGUN = {
    "model": ("smo", "smollm2"),
    "steer": ("2*pi", "2*pirate"),
    "mix": ("2*pi", "2*pirate"),
    **dict.fromkeys(
        ("preset", "presets", "compile", "a", "b", "files", "joint", "rivals"), ("pi", "pirate")
    ),
}
"""Name of a parameter -> the beginning of a word, and the word."""


@pytest.mark.parametrize("kind", BEGUN)
def test_every_command_completes_presets_mixes_and_models(kind: str) -> None:
    begun, whole = BEGUN[kind]
    found = {}
    for name, command in command_line().commands.items():  # type: ignore[attr-defined]
        context = command.make_context(name, [], resilient_parsing=True)
        for one in command.params:
            if one.name == kind and (name, kind) not in NEW:
                found[name] = [item.value for item in one.shell_complete(context, begun)]
    assert found
    assert {name: words for name, words in found.items() if whole not in words} == {}
