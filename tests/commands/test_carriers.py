"""What carries a preset, said and chosen in the shell."""

import io
from pathlib import Path

import pytest

from steerplug.commands.main import main
from tests.helpers.command import Call, Ended

KNIGHT = """\
schema: steerplug/preset-v1
name: knight
teacher:
  system: You are a knight of the old forest who answers every question with Ni, and who asks all
    the time for a shrubbery, one that looks nice.
"""
DARK = """\
schema: steerplug/preset-v1
name: dark
contrast: {positive: Dark., negative: Light.}
fit: {method: mean}
"""
SHORT = ("--max-tokens", "3", "--temperature", "0")


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run a command line in this process, with two presets that nobody compiled."""
    for name, text in (("knight", KNIGHT), ("dark", DARK)):
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))

    def call(*words: object) -> Ended:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return call


def test_presets_on_a_model_say_what_carries_each(call: Call) -> None:
    rows = {row["name"]: row for row in call(
        "presets", "-m", "smollm2", "--json").json()["presets"]}  # fmt: skip
    assert (rows["pirate"]["carrier"], rows["pirate"]["prompt_tokens"]) == ("steering", 0)
    assert (rows["knight"]["carrier"], rows["dark"]["carrier"]) == ("prompt", "-")
    assert 0 < rows["knight"]["prompt_tokens"] < 40
    assert rows["knight"]["reason"] == "not compiled for this model"
    plain = call("presets", "-m", "smollm2").out.splitlines()
    assert "pirate\tsteering\t0\t" in plain


def test_a_preset_that_was_never_compiled_answers_at_once_and_says_so(call: Call) -> None:
    said = call("run", "What is rain?", "-s", "knight", *SHORT)
    assert said.code == 0
    assert "knight is carried by its prompt; `steerplug build knight -m " in said.err
    assert "knight by prompt: " in said.err


@pytest.mark.usefixtures("quick_smollm2")
def test_a_carrier_is_chosen(call: Call) -> None:
    for carrier in ("steering", "prompt", "both"):
        said = call("run", "Hi", "-s", "pirate", "--carrier", carrier, "--json", *SHORT)
        assert said.json()["receipt"]["carrier"] == carrier


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-s", "knight", "--carrier", "steering"), "run `steerplug build knight -m smollm2`"),
        (("-s", "0.5*knight"), "has no strength 0.5"),
        (("-s", "dark"), "no prompt can carry a contrast"),
        (("-s", "pirate", "--carrier", "promt"), "promt"),
    ],
)
def test_what_cannot_carry_is_one_sentence(
    call: Call, arguments: tuple[str, ...], told: str
) -> None:
    said = call("run", "Hi", *arguments, *SHORT)
    assert said.code == 2
    assert told in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_in_a_chat_the_carrier_is_changed_by_a_line(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "/steer knight\nHi\n/carrier\n/steer none\n/carrier steering\n/steer knight\nHi\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    said = call("chat", *SHORT)
    assert said.code == 2
    assert "knight by prompt: " in said.err
    assert "the carrier is auto." in said.err
    assert said.err.count(" reply tokens") == 1
    last = said.err.splitlines()[-1]
    assert "run `steerplug build knight -m smollm2` (or take the carrier 'prompt')" in last


def test_demo_shows_what_there_is(call: Call) -> None:
    said = call("demo", "--preset", "knight", "--max-tokens", "3", "--json")
    shown = said.json()
    assert shown["steered"] is None
    assert shown["prompted"]["text"] != ""
