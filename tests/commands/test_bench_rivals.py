"""`steerplug bench --rivals`: every carrier side by side, or a sentence where there can be none."""

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from steerplug.benchmark.rivals import comparison, course, timing, tuning
from steerplug.commands import show_rivals
from steerplug.commands.main import main
from steerplug.evaluate.questions import Questions
from steerplug.fit.distill import readable, training
from steerplug.fit.effort import Effort
from tests.helpers.tiny_models import tiny_model

SHORT = """\
schema: steerplug/preset-v1
name: short
teacher: {system: Answer briefly.}
checks: [{kind: includes, phrases: [e]}]
fit: {method: psr}
"""
NAMES = ["bare", "prompt", "prompt on disk", "psr", "const", "psr, all tokens", "soft prompt 1",
         "soft prompt 8", "K/V prefix 8", "K/V prefix 9", "LoRA rank 1", "LoRA rank 8"]  # fmt: skip
ESTIMATES = {"gap_closed", "flip_recovery", "neutral_kl", "checks"}
TIMES = {f"{task}_{what}" for task in ("first_token_held", "first_token_new", "decode")
         for what in ("milliseconds", "ratio", "spread")}  # fmt: skip
KEYS = {
    "name", "kind", "bytes", "cells", "gap_closed_at_half", "trained_in", "measured_in",
    "parameters", "rate", "held_back_kl", "shares_batch", "strength", "minus", "sums", "why",
    *ESTIMATES, *(f"{name}_interval" for name in ESTIMATES), *TIMES,
}  # fmt: skip


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preset that is compared on next to nothing, at one rate each."""
    path = tmp_path / "short.yaml"
    path.write_text(SHORT, encoding="utf-8")
    few = Effort(["What is rain?", "Who sails?", "What is a map?"], range(3), 4, is_quick=True)
    monkeypatch.setattr(course, "effort", lambda *_, **__: few)
    monkeypatch.setattr(
        "steerplug.evaluate.questions.reported_on",
        lambda *_: Questions(["What is snow?", "Who swims?"], ["Where is Oslo?"], ["1 + 1 ="]),
    )
    monkeypatch.setattr(tuning, "next_rate", lambda *_: None)
    monkeypatch.setattr(timing, "DECODED", 2)
    monkeypatch.setattr("steerplug.benchmark.rivals.measuring.REPLY_TOKENS", 16)
    return path


def words(preset: Path | str, model: str = "llama") -> list[str]:
    return ["bench", "-m", str(tiny_model(model)), "--rivals", str(preset), "--quick",
            "--rounds", "3"]  # fmt: skip


def test_an_interrupted_comparison_goes_on_and_tells_all_of_every_carrier(
    short: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "store"))
    trained: list[str] = []
    train = training.train

    def counted(*given: Any, **words: Any) -> float:
        trained.append(type(given[2]).__name__)
        return train(*given, **words)

    def interrupted(*_: Any) -> Any:
        (lock,) = (tmp_path / "store").rglob("*.lock")
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "train", counted)
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "_measured", interrupted)
        assert main(words(short)) != 0
    assert len(trained) == 9
    compared: list[comparison.Comparison] = []
    compare = comparison.compare

    def kept(*given: Any, **words: Any) -> comparison.Comparison:
        compared.append(compare(*given, **words))
        return compared[-1]

    monkeypatch.setattr(comparison, "compare", kept)
    capsys.readouterr()
    assert main([*words(short), "--json"]) == 0
    assert len(trained) == 9  # none again
    assert not list((tmp_path / "store").rglob("*.npz"))
    check_figures(json.loads(capsys.readouterr().out))
    show_rivals.show("short", compared[0])
    said = capsys.readouterr()
    for title in (*NAMES, "gap closed", "held-back KL", "held", "new", "shares a batch"):
        assert title in said.out
    assert "trained in torch on 3 replies" in said.err


def check_figures(told: Any) -> None:
    """All keys are there, and what is known beforehand is so."""
    assert (told["n_lessons"], told["n_questions"], told["n_replies"]) == (3, 2, 3)
    assert (told["quick"], told["seed"], told["preset"]) == (True, 0, "short")
    rivals: dict[str, Any] = {rival["name"]: rival for rival in told["rivals"]}
    assert list(rivals) == NAMES
    for name, rival in rivals.items():
        assert set(rival) == KEYS
        assert rival["measured_in"] == "llama.cpp"
        assert (rival["trained_in"] == "torch") == (name not in NAMES[:3])
        assert rival["first_token_held_milliseconds"] > 0
    assert rivals["bare"]["gap_closed"] == 0
    assert rivals["bare"]["neutral_kl"] in (0, None)
    assert rivals["prompt"]["gap_closed"] == rivals["prompt on disk"]["gap_closed"] == 1
    assert rivals["LoRA rank 8"]["parameters"] == 8 * rivals["LoRA rank 1"]["parameters"]
    assert [rivals[name]["cells"] for name in NAMES[6:10]] == [1, 8, 8, 9]
    assert rivals["psr"]["gap_closed_at_half"] is not None
    assert rivals["soft prompt 1"]["gap_closed_at_half"] is None
    assert [name for name in NAMES if not rivals[name]["shares_batch"]] == NAMES[-2:]


@pytest.mark.parametrize(
    ("preset", "model", "sentence"),
    [
        ("love-hate", "llama", "is made of a contrast and has no prompt that others could carry"),
        ("pirate", "gemma2", "keeps running states or sliding windows"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    preset: str, model: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(preset, model)) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_where_memory_is_short_no_other_method_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(readable, "available", lambda: 1)
    assert main(words("pirate")) == 2
    assert "0.0 GB are free; name another model." in capsys.readouterr().err


def test_without_torch_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(readable, "missing", lambda: ["torch"])
    assert main(words("pirate")) == 2
    assert "needs torch; run `pip install 'steerplug[fit]'`." in capsys.readouterr().err


def test_quick_without_rivals_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "-m", str(tiny_model("llama")), "--quick"]) == 2
    assert "--quick only works with --rivals or --instructions; leave" in capsys.readouterr().err
