"""`steerplug try` on a terminal of its own: a question, both replies, and the arrow keys."""

import re
import sys
from pathlib import Path

import pytest

from steerplug.commands.main import main
from tests.commands.test_process import SAILOR, Terminal, environment  # noqa: F401
from tests.helpers.tiny_models import tiny_model

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
    shown = plain(terminal.read(until="0.75*pirate: "))
    assert re.search(r"│ bare +│ pirate at 0\.75 +│", shown)
    bare, steered = columns(shown)
    assert bare
    assert bare != steered
    assert "steered by " in shown
    press(terminal, DOWN, "0.75")  # asks again
    again = plain(terminal.read(until="0.5*pirate: "))
    assert columns(again)[0] == bare
    assert "pirate at 0.5" in again
    press(terminal, DOWN, "0.5")
    terminal.read(until="0.25*pirate: ")
    press(terminal, DOWN, "0.25")
    off = plain(terminal.read(until="not steered"))
    assert columns(off) == (bare, bare)
    press(terminal, CTRL_D, "0")
    terminal.read()
    assert terminal.end() == 0


def test_keys_while_replies_come_are_not_echoed_and_begin_them_anew(
    environment: dict[str, str],  # noqa: F811
) -> None:
    words = ["try", "pirate", "--max-tokens", "80"]
    terminal = Terminal(words, {**environment, "PROMPT_TOOLKIT_NO_CPR": "1"})
    terminal.read(until="pirate at 1 >")
    terminal.type("Tell me all about rain.\r")
    terminal.read(until="mbare ")
    terminal.type("zqx" + DOWN)
    shown = plain(terminal.read(until="0.75*pirate: "))
    assert "^[" not in shown
    assert "zqx" not in shown
    assert "pirate at 1 " in shown
    assert re.search(r"│ bare +│ pirate at 0\.75 +│", shown)
    assert "strength 1 (" not in shown
    terminal.read(until="zqx")  # what is no key of the dial is there at the prompt
    terminal.type("\x03")
    terminal.read(until="Ctrl-D ends.")
    press(terminal, CTRL_D, "0.75")
    terminal.read()
    assert terminal.end() == 0


def test_ctrl_c_still_stops_replies(environment: dict[str, str]) -> None:  # noqa: F811
    words = ["try", "pirate", "--max-tokens", "2000"]
    terminal = Terminal(words, {**environment, "PROMPT_TOOLKIT_NO_CPR": "1"})
    terminal.read(until="pirate at 1 >")
    terminal.type("Tell me all about rain.\r")
    terminal.read(until="mbare ")
    terminal.type("\x03")
    terminal.read(until="stopped.")
    press(terminal, CTRL_D, "1")
    terminal.read()
    assert terminal.end() == 0


def test_demo_lets_all_replies_grow_side_by_side(environment: dict[str, str]) -> None:  # noqa: F811
    words = ["demo", "--max-tokens", "30", "--question", "What is rain?"]
    terminal = Terminal(words, environment)
    growing = plain(terminal.read(until="first token after"))
    none_has_ended = growing.partition("reply tokens")[0].split("│ bare ")[1:]
    assert any(map(all_have_begun, none_has_ended))
    shown = plain(terminal.read())
    assert terminal.end() == 0
    last = shown.rpartition("│ bare ")[2]
    assert re.search(r"│ (\d+) prompt tokens +│ \d+ prompt tokens +│ \1 prompt tokens ", last)
    assert last.count("first token after") == 3
    assert re.search(r"\d+ prompt tokens saved, in every request\.", shown)


@pytest.mark.parametrize(("answer", "code"), [("n\r", 0), ("\x03", 130)])
def test_a_build_is_asked_for(
    environment: dict[str, str], answer: str, code: int,  # noqa: F811
) -> None:
    (Path(environment["STEERPLUG_PRESETS"]) / "sailor.yaml").write_text(SAILOR)
    terminal = Terminal(["try", "sailor", "-m", str(tiny_model("llama"))], environment)
    said = plain(terminal.read(until="[y/N]"))
    assert "sailor is not compiled for" in said
    terminal.type(answer)
    rest = plain(terminal.read())
    assert ("steerplug demo --preset sailor" in " ".join(rest.split())) == (code == 0)
    assert "Traceback" not in rest
    assert terminal.end() == code


def all_have_begun(frame: str) -> bool:
    """Say whether there are words in each of three columns below their titles."""
    rows = re.findall(r"^│ (.*?) │ (.*?) │ (.*?) │$", frame, re.MULTILINE)
    return all(any(row[i].strip() for row in rows) for i in range(3))


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
