"""`steerplug eval` on a tiny model and planted steering, short; and how it refuses."""

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerplug.build import store_key
from steerplug.commands.main import main
from steerplug.commands.show_fidelity import advice
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.evaluate import fidelity, questions, report, sweep, trace
from steerplug.evaluate.sweep import Chosen
from steerplug.library.presets import load_preset, shipped_folder
from steerplug.steering.value import Delta, Steering
from steerplug.store.measurements import recall
from steerplug.store.store import Store
from tests.helpers.command import Call, Ended, plant
from tests.helpers.tiny_models import tiny_model

PRESETS = {
    "sailor": "You are a pirate who has seen all seas. Answer like a pirate, with words such as "
    "ahoy, matey and arr, and let the sea be in every answer that you give",
    "shouter": "Answer in capital letters.",
}
SHIPPED = next((shipped_folder() / "compiled").glob("*/pirate-*.gguf"))


def tiny() -> Path:
    """A model of random weights, which a prompt moves as it moves any other."""
    return tiny_model("olmo2")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with closing(Engine(Model(tiny()), n_ctx=1024, n_threads=1)) as engine:
        yield engine


@pytest.fixture(scope="module")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with another fingerprint, as another quantisation would have."""
    path = tmp_path_factory.mktemp("other") / "other.gguf"
    path.write_bytes(tiny().read_bytes().replace(b"tiny", b"toys", 1))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Path:
    """A folder with two presets and their steering: the same for both."""
    home, model = tmp_path_factory.mktemp("home"), engine.model
    z = np.random.default_rng(0).standard_normal(model.n_embd).astype(np.float32)
    steering = Steering("planted", model.n_embd, model.n_layer, {1: Delta.constant(z)})
    (home / "presets").mkdir()
    for name, system in PRESETS.items():
        path = home / "presets" / f"{name}.yaml"
        path.write_text(
            f"schema: steerplug/preset-v1\nname: {name}\nfit: {{method: chain}}\n"
            f"teacher: {{system: '{system}'}}\n"
            "checks: [{kind: includes, phrases: [arr, aye, ahoy, matey]}]\n"
        )
        preset = load_preset(str(path))
        plant(preset, replace(steering, name=name), engine, Store(home / "cache"))
    return home


@pytest.fixture
def call(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run `steerplug eval` in this process, with few and short replies."""
    monkeypatch.setenv("STEERPLUG_PRESETS", str(home / "presets"))
    monkeypatch.setenv("STEERPLUG_CACHE", str(home / "cache"))
    for module, name, value in (
        (questions, "QUESTIONS", 2), (questions, "FURTHER", 1), (questions, "NEUTRAL", 1),
        (report, "SWEPT", 1),
        (fidelity, "REPLY_TOKENS", 6), (sweep, "REPLY_TOKENS", 6), (sweep, "N_STRENGTHS", 3),
        (trace, "TRACED_TOKENS", 6),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)

    def call(*words: object) -> Ended:
        model = () if "-m" in words else ("-m", tiny())
        code = main(["eval", *map(str, (*words, *model))])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return call


FIGURES = ["gap_closed", "bare_kl", "top1_agreement", "flip_recovery", "neutral_kl", "coherence",
           "checks"]  # fmt: skip
KEYS = [
    "preset", "model", "fingerprint", "steering",
    *(key for figure in FIGURES for key in (figure, f"{figure}_interval")),
    "dial", "damage", "prompt_tokens_saved", "n_prompts", "n_replies", "n_tokens", "sweep",
    "picture", "seconds",
]  # fmt: skip


def test_eval_reports_as_json_and_as_a_picture(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "sailor.svg"
    ended = call("sailor", "--json", "--plot", path)
    said = ended.json()
    assert list(said) == KEYS
    assert (said["preset"], said["model"], said["picture"]) == ("sailor", str(tiny()), str(path))
    (steering,) = said["steering"]
    assert steering == {"name": "sailor", "version": "1.0.0", "strength": 1.0, "quick": False}
    assert (said["n_prompts"], said["n_replies"], said["checks"]["n"]) == (2, 3, 3)
    assert said["gap_closed"] < 1
    assert said["prompt_tokens_saved"] > 0
    points = said["sweep"]["points"]
    assert [point["strength"] for point in points] == [0, 1, 2]
    assert points[0]["gap_closed"] == 0 != points[1]["gap_closed"]
    assert re.search(r"Measuring sailor on 2 questions\.\n(?:.+\n)*?  About \d+ s\.\n", ended.err)
    picture = path.read_text()
    assert f"{said['gap_closed']:.0%}" in picture
    assert "where the preset acts" in picture


def test_eval_of_a_mix_on_ones_own_prompts_prints_tables(call: Call, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is rain?\n")
    ended = call("0.5*sailor + shouter", "--prompts", prompts)
    assert ended.code == 0, ended.err
    first, *rest = ended.out.splitlines()
    assert first.startswith("sailor at 0.5, shouter at 1 on ")
    assert first.endswith(": 1 prompt")
    page = "\n".join(rest)
    for words in (
        "gap to the prompted model that is closed", "same likeliest token", "95 % interval",
        "prompt tokens saved", "greedy replies: 1", "bare   prompted   steered", "coherence",
        "repetition", "pass the preset's checks",
        "reads worse" if "reads worse" in page else "safe", "is the best default",
    ):  # fmt: skip
        assert words in page, words
    assert "\x1b" not in ended.out


def test_eval_of_a_near_miss_keeps_what_it_measured_on_this_very_file(
    call: Call, engine: Engine, other_path: Path, home: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(questions, "QUESTIONS", 1)
    kept = Store(home / "cache").path(store_key(load_preset("shouter"), engine))
    ended = call("shouter", "-m", other_path, "--json")
    said = ended.json()
    assert "`shouter` was built for another quantisation, version or LoRA of" in caplog.text
    assert said["fingerprint"] != engine.model.fingerprint
    assert list(recall(kept)) == [said["fingerprint"]]
    assert recall(kept)[said["fingerprint"]]["gap_closed"] == said["gap_closed"]
    caplog.clear()

    monkeypatch.setattr(report, "measure_steering", lambda *_, **__: Again(said["gap_closed"]))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is rain?\n")
    for words in (("--strength", 0.5), ("--prompts", prompts)):  # not what a preset claims
        assert call("shouter", *words, "--json").code == 0
        assert engine.model.fingerprint not in recall(kept)
    assert call("shouter", "--json").code == 0
    assert engine.model.fingerprint in recall(kept)
    assert call("shouter", "-m", other_path, "--json").code == 0
    assert "Measured here, it closes " in caplog.text


@dataclass(frozen=True)
class Again:
    """What was measured in no time: what had been measured before."""

    gap_closed: float

    def as_dict(self) -> dict[str, Any]:
        return {"gap_closed": self.gap_closed}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("none",), "`none` steers nothing; name a preset to measure."),
        (("sailr",), "there is no preset `sailr`; did you mean `sailor`?"),
        (("0.5*sailor", "--strength", 1), "`0.5*sailor` says its strengths itself; leave out"),
        (("sailor + shouter", "--strength", 1), "leave out --strength 1, or name one preset"),
        (("sailor", "--strength", "nan"), "the strength of `sailor` is nan"),
        ((f'"{SHIPPED}"',), "holds steering numbers and no prompt to compare them with; name"),
        (("sailor", "--plot", "a.jpg"), "ends in '.jpg'; end it in .svg, .png or .pdf"),
        (("sailor", "--prompts", "nowhere.txt"), "nowhere.txt cannot be read (No such file"),
        (("sailor", "--strength", 9), "strength 9 is beyond the range of `sailor`; give a number"),
    ],
)
def test_eval_refuses_in_one_sentence(call: Call, words: tuple[object, ...], sentence: str) -> None:
    ended = call(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert sentence in ended.err


@pytest.mark.parametrize(
    ("chosen", "taught", "said"),
    [
        (Chosen(1, 0.5, 1.5), True,
         "Strength 1 is the best default; replies read as well as the prompted model's from 0.5 to "
         "1.5."),
        (Chosen(1, 0.25, 0.5), True,
         "Strength 1 is the best default, but replies read as well as the prompted model's from "
         "0.25 to 0.5."),
        (Chosen(1, None, None), False,
         "Strength 1 is the default, but at no strength do replies read as well as the bare "
         "model's."),
    ],
)  # fmt: skip
def test_eval_says_how_far_to_turn(chosen: Chosen, taught: bool, said: str) -> None:
    assert advice(chosen, taught) == said
