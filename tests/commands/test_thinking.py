"""`run` and `chat` with a model that thinks."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from steerplug.chat.template import ChatTemplate
from steerplug.commands import show_reply
from steerplug.commands.main import main
from steerplug.engine.model import Model
from tests.helpers.command import Call, Ended
from tests.helpers.thinking import scripted, template

ANSWER = "Hm, so.\n</think>\n\nBlue.<|im_end|>"
RUN = "run", "Why?", "--max-tokens", 40, "--temperature", 0


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    model: Model,
) -> Call:  # fmt: skip
    """Run a command in this process, on a model that opens a thought and writes the answer."""
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path))
    monkeypatch.setattr(
        ChatTemplate, "of", classmethod(lambda _, model: template("Qwen3.5", model))
    )
    script = scripted(model, monkeypatch)

    def call(*words: object, stdin: bytes = b"", says: str = ANSWER) -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        capsys.readouterr()
        script(says)
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return call


def test_a_pipe_gets_the_answer_alone_and_json_both(call: Call) -> None:
    plain = call(*RUN)
    assert plain.out == "Blue.\n"
    assert "reply tokens, 9 of them thought" in plain.err
    reply = call(*RUN, "--json").json()
    assert (reply["text"], reply["reasoning"]) == ("Blue.", "Hm, so.")
    assert reply["usage"]["reasoning_tokens"] == 9


def test_a_terminal_shows_thoughts_dim_above_the_answer(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def screen() -> Console:
        return Console(force_terminal=True, color_system="standard", width=80, file=sys.stdout)

    monkeypatch.setattr(show_reply, "screen", screen)
    assert call(*RUN).out == "".join(
        f"\x1b[2m{words}\x1b[0m" for words in ("Hm,", " so.")
    ) + "\n\nBlue.\n"  # fmt: skip


@pytest.mark.parametrize("words", [["--no-think"], ["--thinking-budget", 0]])
def test_thinking_is_switched_off(call: Call, words: list[object]) -> None:
    reply = call(*RUN, *words, "--json", says="Blue.<|im_end|>").json()
    assert (reply["text"], reply["reasoning"]) == ("Blue.", "")


def test_thinking_is_bounded(call: Call) -> None:
    says = "One two three four five six"
    reply = call(*RUN, "--thinking-budget", 3, "--json", says=says).json()
    assert reply["reasoning"] == "One two three"


def test_a_switch_that_the_template_lacks_is_said(call: Call) -> None:
    ended = call(*RUN, "--reasoning-effort", "low")
    assert ended.code == 2
    assert "reads no reasoning_effort; use enable_thinking." in ended.err


def test_a_conversation_keeps_thoughts_out_of_what_is_said(call: Call) -> None:
    ended = call("chat", "--json", "--max-tokens", 40, stdin=b"Why?\nAnd?\n")
    first, second = (json.loads(line) for line in ended.out.splitlines())
    assert (first["text"], first["reasoning"]) == ("Blue.", "Hm, so.")
    thought = first["usage"]["reasoning_tokens"]
    assert second["usage"]["prompt_tokens"] < (
        2 * first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"] - thought + 8
    )
