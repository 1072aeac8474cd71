"""The help of each command: short and in 80 columns, and all of it where it says that all is."""

import re

import pytest

from steerplug.commands.app import COMMANDS, command_line
from steerplug.commands.main import main

SHORT = 60
"""Lines that help may have."""


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def options_of(name: str) -> list[list[str]]:
    """Return the flags of each option of a command."""
    (command,) = (known for known in [command_line().commands[name]])  # type: ignore[attr-defined]
    return [option.opts for option in command.params if option.param_type_name == "option"]


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_narrow_and_says_where_all_is(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short, options = helped(capsys, name, "--help"), options_of(name)
    lines = short.splitlines()
    assert len(lines) <= SHORT
    assert max(map(len, lines)) <= 80
    missing = [flags for flags in options if not flags_in(short) & {*flags}]
    if not missing:
        assert "--help-all" not in short
        return
    assert f"Show {len(missing)} more options: " in " ".join(short.split())
    everything = helped(capsys, name, "--help-all")
    assert all({*flags} <= flags_in(everything) for flags in options)
    assert max(map(len, everything.splitlines())) <= 80


def test_what_help_leaves_out_is_completed_all_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--flash-attn" not in flags_in(helped(capsys, "run", "--help"))
    monkeypatch.setenv("_STEERPLUG_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "steerplug run --flash")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        command_line()([], prog_name="steerplug")
    assert "--flash-attn" in capsys.readouterr().out
