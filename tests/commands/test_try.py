"""`steerplug try` on a terminal of its own: a question, both replies, and the arrow keys."""

import re
import sys

import pytest

from steerplug.commands import main
from tests.commands.test_process import Terminal, environment  # noqa: F401

UP, DOWN, CTRL_D = "\x1b[A", "\x1b[B", "\x04"


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_both_replies_side_by_side_and_the_strength_by_arrow_keys(
    environment: dict[str, str],  # noqa: F811
) -> None:
    words = ["try", "pirate", "--max-tokens", "12"]
    terminal = Terminal(words, {**environment, "PROMPT_TOOLKIT_NO_CPR": "1"})
    terminal.read(until="pirate at 1 >")
    terminal.type(UP + DOWN + DOWN)  # nothing was asked yet: the dial turns, and that is all
    terminal.type("What is rain?\r")
    shown = plain(terminal.read(until="strength 0.75 ("))
    assert re.search(r"│ bare +│ pirate at 0\.75 +│", shown)
    bare, steered = columns(shown)
    assert bare
    assert bare != steered
    assert "steered by pirate" in shown
    press(terminal, DOWN, "0.75")  # asks again
    again = plain(terminal.read(until="strength 0.5 ("))
    assert columns(again)[0] == bare
    assert "pirate at 0.5" in again
    press(terminal, DOWN, "0.5")
    terminal.read(until="strength 0.25 (")
    press(terminal, DOWN, "0.25")
    off = plain(terminal.read(until="not steered"))
    assert columns(off) == (bare, bare)
    press(terminal, CTRL_D, "0")
    terminal.read()
    assert terminal.end() == 0


def press(terminal: Terminal, key: str, strength: str) -> None:
    """Type a key at the prompt; before it is there, the terminal itself would take the key."""
    terminal.read(until=f"pirate at {strength} >")
    terminal.type(key)


def columns(shown: str) -> tuple[str, str]:
    """Return both replies of the last table that was drawn."""
    last = shown.rpartition("│ bare")[2]
    rows = re.findall(r"^│ (.+?) │ (.+?) │", last, re.MULTILINE)
    bare, steered = (" ".join(" ".join(row[i] for row in rows).split()) for i in (0, 1))
    return bare, steered


def test_without_a_terminal_it_says_what_to_use_instead(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["try", "pirate"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "needs a terminal for its keys; in a pipe, use `steerplug demo --preset pi" in said.err


def test_without_prompt_toolkit_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    assert main(["try", "pirate"]) == 2
    assert "run `pip install 'steerplug[demo]'`" in capsys.readouterr().err
