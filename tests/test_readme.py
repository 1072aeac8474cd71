"""The README is executed: its Python runs, its preset is valid, its commands are CI's."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steerplug.commands.app import app
from steerplug.preset import Preset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("source", blocks("python"), ids=lambda source: source.split("\n")[1])
def test_the_python_of_the_readme_runs_and_prints_what_it_says(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    exec(compile(source, "README.md", "exec"), {"__name__": "readme"})
    assert bool(capsys.readouterr().out.strip()) == ("print(" in source)


@pytest.mark.parametrize("source", blocks("yaml"))
def test_the_preset_of_the_readme_is_valid(source: str) -> None:
    assert Preset.from_yaml(source.encode(), "README.md").name == "concise-sailor"


def test_ci_runs_exactly_the_readme_s_test_command() -> None:
    command = next(block.strip() for block in blocks("bash") if "pytest" in block)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("bash")
             for line in block.splitlines()]
    return [line for line in lines if line.startswith("steerplug ")]


@pytest.mark.parametrize("command", commands())
def test_every_command_line_of_the_readme_is_understood(command: str) -> None:
    name = shlex.split(command)[1]
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    for option in re.findall(r"\s(--?[a-z]+)", command):
        assert option in result.output


@pytest.mark.parametrize("path", re.findall(r"\]\(((?:examples|steerplug)/[^)]+)\)", README))
def test_every_file_the_readme_points_to_exists(path: str) -> None:
    assert (ROOT / path).is_file()
