"""What needs steering and finds none asks before it builds, or says what to run instead."""

import re
from pathlib import Path

import pytest

from steerplug.commands.main import main
from tests.commands.test_process import Terminal, environment  # noqa: F401
from tests.helpers.tiny_models import tiny_model

SAILOR = """\
schema: steerplug/preset-v1
name: sailor
teacher: {system: You are a sailor.}
fit: {method: mean}
"""
GLAD = """\
schema: steerplug/preset-v1
name: glad
contrast: {positive: What a joy, negative: What a pain}
fit: {method: mean}
"""
COMMANDS = (("eval", "{}"), ("export", "{}", "--to", "x.gguf"), ("page", "presets"))


@pytest.fixture
def folder(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> Path:  # fmt: skip
    """A folder to work in, with a preset that is not compiled for any model."""
    for name in ("STEERPLUG_PRESETS", "STEERPLUG_CACHE"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets" / "sailor.yaml").write_text(SAILOR)
    return tmp_path


def built(folder: Path) -> list[Path]:
    return list((folder / "cache").rglob("*.gguf"))


@pytest.mark.parametrize("words", COMMANDS)
def test_where_nobody_can_be_asked_it_says_what_to_run(
    words: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_model("llama"))
    said = [word.format("sailor") for word in words]
    assert main([*said, "-m", model]) == 2
    named = "presets/sailor.yaml" if "page" in words else "sailor"
    told = f"; run `steerplug build {named} -m {model}` first."
    missing = f"sailor is not compiled for {Path(model).name}"
    assert capsys.readouterr().err.endswith(f"{missing}{told}\n")
    assert not built(folder)


@pytest.mark.parametrize(("name", "estimate"), [("sailor", True), ("glad", False)])
@pytest.mark.parametrize("words", COMMANDS[:2])
def test_on_a_terminal_it_asks_and_a_no_builds_nothing(
    words: tuple[str, ...], name: str, estimate: bool, folder: Path,
    environment: dict[str, str],  # noqa: F811
) -> None:  # fmt: skip
    (folder / "presets" / "glad.yaml").write_text(GLAD)
    said = [word.format(name) for word in words]
    terminal = Terminal([*said, "-m", str(tiny_model("llama"))], environment)
    shown = plain(terminal.read(until="Build it now? [y/N]"))
    assert f"{name} is not compiled for" in shown
    assert (re.search(r"^By mean: about \d+ s", shown, re.MULTILINE) is not None) == estimate
    terminal.type("n\r")
    terminal.read()
    assert terminal.end() == 0
    assert not built(folder)


@pytest.mark.usefixtures("folder")
def test_ctrl_c_at_the_question_ends_on_a_line_of_its_own(
    environment: dict[str, str],  # noqa: F811
) -> None:
    terminal = Terminal(["try", "sailor", "-m", str(tiny_model("llama"))], environment)
    terminal.read(until="Build it now? [y/N]")
    terminal.type("\x03")
    assert "\nsteerplug: stopped." in plain(terminal.read())
    assert terminal.end() == 130


@pytest.mark.usefixtures("folder")
def test_what_a_build_takes_is_said_on_a_line_of_its_own_above_the_bar(
    environment: dict[str, str],  # noqa: F811
) -> None:
    terminal = Terminal(["build", "sailor", "-m", str(tiny_model("llama"))], environment)
    shown = plain(terminal.read(until="of memory."))
    assert re.search(r"^  By mean: about ", shown, re.MULTILINE)
    assert re.search(r"\d:\d\d, \d:\d\d left", plain(terminal.read(until=" left")))
    terminal.type("\x03")
    assert "\nsteerplug: stopped." in plain(terminal.read())
    assert terminal.end() == 130


@pytest.mark.usefixtures("folder")
def test_a_terminal_without_unicode_has_a_bar_of_plain_signs(
    environment: dict[str, str],  # noqa: F811
) -> None:
    ascii_only = {**environment, "PYTHONIOENCODING": "ascii"}
    terminal = Terminal(["build", "sailor", "-m", str(tiny_model("llama"))], ascii_only)
    shown = plain(terminal.read(until=" left"))
    assert shown.isascii()
    assert "\\u" not in shown
    terminal.type("\x03")
    terminal.read()
    assert terminal.end() == 130


def plain(text: str) -> str:
    """Return what is shown, with a line that is drawn anew as one more."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", re.sub(r"\r?\x1b\[2K|\r", "\n", text))
