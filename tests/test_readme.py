"""The pages are executed: their Python runs, presets are valid, commands and files are there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steerplug.commands.app import app
from steerplug.preset import Preset

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROOMS = ("steerplug", "presets", "examples", "tests")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *(p for room in ROOMS for p in (ROOT / room).rglob("*.md"))]
}
OTHER_DISTRIBUTION = "steerplug/langchain/distribution/README.md"
"""Its code is run where it is built: tests/langchain/test_distribution.py."""


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def all_blocks(language: str) -> list[tuple[str, str]]:
    ours = [page for page in PAGES if page != OTHER_DISTRIBUTION]
    return [(page, source) for page in ours for source in blocks(language, page)]


@pytest.mark.usefixtures("short_replies")
@pytest.mark.parametrize(("page", "source"), all_blocks("python"))
def test_python_runs_and_prints_what_it_says(
    page: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    exec(compile(source, page, "exec"), {"__name__": "readme"})
    assert bool(capsys.readouterr().out.strip()) == ("print(" in source)


PRESETS = [(page, source) for page, source in all_blocks("yaml") if "teacher:" in source]
SERVER = "steerplug/server/README.md"
"""Its file is served: tests/server/test_models.py."""


def test_each_file_of_a_page_is_read_somewhere() -> None:
    others = [page for page, source in all_blocks("yaml") if (page, source) not in PRESETS]
    assert others == [SERVER]


@pytest.mark.parametrize(("page", "source"), PRESETS)
def test_presets_of_pages_are_valid(page: str, source: str) -> None:
    assert Preset.from_yaml(source.encode(), page).name == "concise-sailor"


def test_ci_runs_exactly_the_readme_s_test_command() -> None:
    command = next(block.strip() for block in blocks("bash", "README.md") if "pytest" in block)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def commands() -> list[str]:
    lines = (line for _, block in all_blocks("bash") for line in block.splitlines())
    return [line for line in map(without_comment, lines) if line.startswith("steerplug ")]


def without_comment(line: str) -> str:
    return line.partition("#")[0].strip()


@pytest.mark.parametrize("command", commands())
def test_every_command_line_is_understood(command: str) -> None:
    name = shlex.split(command)[1]
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    for option in re.findall(r"\s(--?[a-z]+)", command):
        assert option in result.output


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_points_to_exists(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page]):
        assert ((ROOT / page).parent / target).is_file(), target


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_the_readme_points_to_every_page_once(page: str) -> None:
    assert README.count(f"]({page})") == 1


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.usefixtures("quick_smollm2")
def test_the_readme_counts_the_tokens_that_demo_counts() -> None:
    result = CliRunner().invoke(app, ["demo", "--max-tokens", "1", "--json"])
    ways = json.loads(result.stdout)
    assert f'| "{ways["question"]}" |' in README
    rows = {
        "bare": "bare", "with a system prompt": "prompted", "steered, no system prompt": "steered",
    }  # fmt: skip
    for row, way in rows.items():
        assert f"| {row} | {ways[way]['prompt_tokens']} |" in README


def test_environment_variables_for_tests_are_read_by_tests() -> None:
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py")
                      if p != Path(__file__))
    for name in re.findall(r"STEERPLUG_(?:TEST|FUZZ|SOAK|SILLY)[A-Z_]*", PAGES["tests/README.md"]):
        assert name in sources
