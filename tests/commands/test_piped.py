"""A prompt that is piped into `steerplug run`, alone or with one on the command line."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steerplug.commands import piped
from steerplug.commands.piped import read_prompt
from steerplug.errors import RequestError

Pipe = Callable[[bytes], None]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    """Let stdin be a pipe that holds these bytes."""
    streams = []

    def pipe(content: bytes) -> None:
        ours, theirs = os.pipe()
        os.write(theirs, content)
        os.close(theirs)
        streams.append(os.fdopen(ours, encoding="utf-8"))
        monkeypatch.setattr(sys, "stdin", streams[-1])

    yield pipe
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("prompt", ["", "-"])
def test_what_is_piped_is_the_prompt(prompt: str, pipe: Pipe) -> None:
    pipe("What is 雨?\r\n".encode())
    assert read_prompt(prompt) == "What is 雨?"


def test_what_is_piped_comes_before_what_is_written(pipe: Pipe) -> None:
    pipe(b"Rain falls.\nSnow too.\n")
    assert read_prompt("Summarise this.") == "Rain falls.\nSnow too.\n\nSummarise this."


def test_an_empty_pipe_adds_nothing(pipe: Pipe) -> None:
    pipe(b"\n")
    assert read_prompt("What is rain?") == "What is rain?"


def test_a_file_is_as_good_as_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rain.txt"
    path.write_text("Rain falls.\n")
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert read_prompt("Why?") == "Rain falls.\n\nWhy?"


def test_what_is_neither_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert read_prompt("What is rain?") == "What is rain?"
        with pytest.raises(RequestError, match=r"^the prompt is empty; write what to ask, or pipe"):
            read_prompt("")
    monkeypatch.setattr(sys, "stdin", None)
    assert read_prompt("What is rain?") == "What is rain?"


def test_on_a_terminal_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0), os.fdopen(theirs, encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert read_prompt("What is rain?") == "What is rain?"
        with pytest.raises(RequestError, match="the prompt is empty"):
            read_prompt("")


def test_bytes_that_are_no_text_are_one_sentence(pipe: Pipe) -> None:
    pipe(b"caf\xe9")
    with pytest.raises(RequestError, match=r"stdin is not UTF-8 text \(byte 3\)"):
        read_prompt("Why?")


def test_more_than_a_model_reads_is_refused_without_being_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(piped, "_MAX_BYTES", 1 << 20)
    with open("/dev/zero") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(RequestError, match="stdin is larger than 1 MB"):
            read_prompt("-")
