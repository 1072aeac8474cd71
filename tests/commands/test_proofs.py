"""`steerplug eval --turns` and `--overrides` on a tiny model and planted steering; refusals."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from steerplug.commands import show_report
from steerplug.commands.main import main
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.evaluate import overrides, turns
from steerplug.evaluate.scripts import Override
from steerplug.evaluate.tables import tables
from steerplug.library.presets import load_preset
from steerplug.steering.value import Delta, Steering
from steerplug.store.store import Store
from tests.helpers.command import Call, Ended, plant
from tests.helpers.tiny_models import tiny_model

PRESET = """\
schema: steerplug/preset-v1
name: sailor
fit: {method: chain}
teacher: {system: "You are a pirate who has seen all seas. Answer like a pirate."}
checks: [{kind: max_words, count: 5}]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with presets, one of which has steering."""
    home = tmp_path_factory.mktemp("home")
    (home / "presets").mkdir()
    path = home / "presets" / "sailor.yaml"
    path.write_text(PRESET)
    (home / "presets" / "loose.yaml").write_text(
        PRESET.replace("sailor", "loose").rpartition("checks")[0]
    )
    with closing(Engine(Model(tiny_model("llama")), n_ctx=512, n_threads=1)) as engine:
        model = engine.model
        z = 9 * np.random.default_rng(0).standard_normal(model.n_embd).astype(np.float32)
        steering = Steering("sailor", model.n_embd, model.n_layer, {1: Delta.constant(z)})
        plant(load_preset(str(path)), steering, engine, Store(home / "cache"))
    return home


@pytest.fixture
def call(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run `steerplug eval` in this process, with few and short replies."""
    monkeypatch.setenv("STEERPLUG_PRESETS", str(home / "presets"))
    monkeypatch.setenv("STEERPLUG_CACHE", str(home / "cache"))
    monkeypatch.setattr(turns, "chats", lambda n: [("Why?", "How?"), ("How?", "Why?")][:n])
    monkeypatch.setattr(turns, "REPLY_TOKENS", 4)
    monkeypatch.setattr(overrides, "REPLY_TOKENS", 4)
    monkeypatch.setattr(overrides, "overrides", lambda: [Override("appeal", "Why?", "Please.")])

    def call(*words: object) -> Ended:
        code = main(["eval", *map(str, words), "-m", str(tiny_model("llama"))])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return call


ABOUT = ["preset", "name", "fingerprint", "steering", "command", "version", "commit"]


def test_turns_and_overrides_as_json_say_by_what_they_were_made(call: Call) -> None:
    said = call("sailor", "--turns", "--chats", 1, "--strength", 0.5, "--json").json()
    assert list(said) == [*ABOUT, "turns", "seconds"]
    model = tiny_model("llama").name  # and not where it lies
    assert said["command"] == f"steerplug eval sailor -m {model} --turns --chats 1 --strength 0.5"
    assert said["steering"][0]["strength"] == 0.5
    assert (said["turns"]["n_chats"], said["turns"]["n_turns"]) == (1, 2)
    assert next(tables(said)).about.endswith(" 1 chat of 2 turns.")  # of one there is no interval
    assert list(said["turns"]["arms"]) == ["bare", "prompted", "steered", "answer_only", "both"]
    said = call("sailor", "--overrides", "--json").json()
    assert list(said) == [*ABOUT, "overrides", "seconds"]
    assert list(said["overrides"]["arms"]["bare"]) == [
        "plain", "plain_interval", "pasted", "pasted_interval", "change", "change_interval",
        "by_kind", "by_kind_interval",
    ]  # fmt: skip


def test_they_are_tables_for_people(call: Call) -> None:
    ended = call("sailor", "--turns", "--chats", 2)
    assert ended.code == 0, ended.err
    for words in (
        "along its own replies in 2 chats of 2 turns", "turn 2 less turn 1", "answer_only",
        "Switched after turn 1", "nearness", "limit of 4 tokens",
    ):  # fmt: skip
        assert words in ended.out, words
    assert "Measuring sailor; what is done is kept" in ended.err
    ended = call("sailor", "--overrides")
    assert "to 1 questions alone" in ended.out
    assert "appeal" in ended.out


def test_on_a_narrow_terminal_intervals_go_below_their_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = ("bare", "prompted", "paraphrased", "steered", "both")
    shares = {f"{name}{kind}": [0.05, 0.125] if kind else 0.1
              for name in ("plain", "pasted", "change") for kind in ("", "_interval")}  # fmt: skip
    kinds = {"ignore the above": 1.0, "fake system message": 0.5}
    report = {"overrides": {
        "n_overrides": 50, "arms": {arm: {**shares, "by_kind": kinds} for arm in arms},
    }}  # fmt: skip
    show_report.show_report(report, as_json=False)
    assert "10% (5 to 12)" in capsys.readouterr().out
    narrow = Console(force_terminal=True, width=40, color_system=None)
    monkeypatch.setattr(show_report, "screen", lambda: narrow)
    show_report.show_report(report, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["(5", "to", "12)"] * 3 for line in lines)
    assert not any("..." in line or "\N{HORIZONTAL ELLIPSIS}" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("love-hate", "--turns"), "`love-hate` is a contrast of texts, and has no prompt to"),
        (("loose", "--overrides"), "`loose` has no checks, which are what --overrides counts"),
        (("sailor", "--chats", 2), "--chats 2 only works with --turns; leave it out."),
        (("sailor", "--turns", "--overrides"), "--overrides is a measure of its own, with its own "
         "questions and no picture; leave out --turns."),
        (("sailor", "--joint", "x"), "--joint x only works with --orders; leave it out."),
        (("sailor", "--orders"), "--orders compares two or three presets that a mix adds, and "
         "`sailor` adds 1; name as many"),
        (("sailor + loose", "--orders"), "`loose` has no checks, which are what --orders counts"),
        (("sailor", "--turns", "--plot", "a.svg"), "leave out --plot."),
    ],
)  # fmt: skip
def test_they_refuse_in_one_sentence(call: Call, words: tuple[object, ...], sentence: str) -> None:
    ended = call(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert sentence in ended.err
