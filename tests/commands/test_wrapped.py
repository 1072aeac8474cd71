"""Streamed text on a terminal: lines end between words, whatever the pieces."""

import contextlib
import io
import json
import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from steerplug.commands.main import main
from steerplug.commands.output import print_fields, screen
from steerplug.commands.wrapped import Wrapped

WORDS = st.lists(st.text("abcdefg,.", min_size=1, max_size=20), min_size=1, max_size=30)


def write(pieces: list[str], *, width: int = 20, terminal: bool = True) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", io.StringIO())
        import sys

        console = Console(file=io.StringIO(), force_terminal=terminal, width=width)
        wrapped = Wrapped(console)
        for piece in pieces:
            wrapped.write(piece)
        wrapped.end()
        return sys.stdout.getvalue()  # type: ignore[union-attr,no-any-return]


def test_a_path_longer_than_its_line_is_shown_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    path = f"/cache/{'x' * 90}.gguf"
    print_fields(file=path)
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "".join(out.split()) == f"file{path}"


def test_where_no_terminal_is_no_line_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for columns in ("10", "1000"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["show", "pirate"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_a_long_name_leaves_the_other_columns_of_presets_their_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = "a-name-as-long-as-one-can-be-which-goes-on-and-on-and-on"
    said = {"schema": "steerplug/preset-v1", "name": name, "teacher": {"system": "Be long."}}
    (tmp_path / f"{name}.yaml").write_text(json.dumps(said))
    for variable, value in {
        "STEERPLUG_PRESETS": str(tmp_path), "FORCE_COLOR": "1", "COLUMNS": "80"
    }.items():  # fmt: skip
        monkeypatch.setenv(variable, value)
    for words in (["presets"], ["presets", "--long"]):
        assert main(words) == 0
        out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
        assert "\u2026" not in out  # nothing is cut off
        assert max(map(len, out.splitlines())) <= 80
        assert len(out.splitlines()) < 50
        assert name in "".join(line[:28].strip() for line in out.splitlines())


def test_what_is_said_is_seen_while_a_library_has_its_stderr_taken_away(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = screen(stderr=True)
    with contextlib.redirect_stderr(io.StringIO()):
        console.print("on it goes")
    assert capsys.readouterr().err == "on it goes\n"


@given(WORDS, st.integers(1, 9))
def test_as_textwrap_does_in_pieces_of_any_size(words: list[str], size: int) -> None:
    text = " ".join(words)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert write(pieces) == textwrap.fill(text, 20, break_on_hyphens=False)


def test_lines_and_indents_stay() -> None:
    assert write(["- a\n  ", "- b\n\n", "c"]) == "- a\n  - b\n\nc"


def test_a_line_of_chinese_is_full_and_each_character_comes_at_once() -> None:
    written = write(["雨是从天上落下来的水滴也是云"], width=10)
    assert [cell_len(line) for line in written.split("\n")] == [10, 10, 8]


def test_what_is_no_terminal_is_left_as_it_is() -> None:
    text = "long " * 30
    assert write([text], terminal=False) == text
