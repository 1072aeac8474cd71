"""`steerplug build "a + b" --as NAME`: the preset that presets become together; no model."""

from pathlib import Path

import pytest

from steerplug.commands.joint import joint_preset
from steerplug.commands.main import main
from steerplug.errors import PresetError
from steerplug.library.presets import load_preset


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's presets, none yet."""
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    return tmp_path


def test_it_has_all_prompts_checks_and_decoding(folder: Path) -> None:
    made = joint_preset("pirate + json-output", "sea-json")
    pirate, json = load_preset("pirate"), load_preset("json-output")
    assert made.teacher
    assert pirate.teacher
    assert json.teacher
    assert made.teacher.system == f"{pirate.teacher.system}\n\n{json.teacher.system}"
    assert made.teacher.examples == pirate.teacher.examples + json.teacher.examples
    assert (made.checks, made.format) == (pirate.checks + json.checks, "json")
    assert (made.fit.method, made.fit.prompts) == ("auto", "general")
    assert load_preset("sea-json") == made
    assert list(folder.iterdir()) == [folder / "sea-json.yaml"]
    assert joint_preset("1*pirate + json-output", "sea-json") == made  # what is there is taken


@pytest.mark.parametrize(
    ("words", "name", "sentence"),
    [
        ("pirate", "x", "`pirate` is no sum of presets; name two or more, as in `a + b`."),
        ("pirate - concise", "x", "has strengths or takes away, and prompts have no strengths"),
        ("0.5*pirate + concise", "x", "name the presets alone, as in `pirate + concise`."),
        ("pirate + love-hate", "x", "`love-hate` is a contrast of texts and has no prompt to join"),
        ("pirate + concise", "formal", "`formal` is a preset that ships with steerplug"),
    ],
)
def test_it_refuses_in_one_sentence(words: str, name: str, sentence: str) -> None:
    with pytest.raises(PresetError, match=sentence.replace("*", r"\*").replace("+", r"\+")):
        joint_preset(words, name)


def test_another_preset_of_that_name_stays(folder: Path) -> None:
    joint_preset("pirate + json-output", "mine")
    with pytest.raises(PresetError, match=r"there is .*mine\.yaml already; choose another name"):
        joint_preset("pirate + concise", "mine")
    assert "json-output" in (folder / "mine.yaml").read_text()


def test_it_is_for_one_sum(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--all", "--as", "x"]) == 2
    assert "--as x is for a sum of presets; name it instead of --all." in capsys.readouterr().err
