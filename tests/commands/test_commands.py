"""The commands on the real model: what they print, in words and as JSON, and how they refuse.

Steering is planted in the cache, so no test waits for a fit, except those about building.
"""

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import steerplug
from steerplug.commands.examination import Examination
from steerplug.commands.main import main
from steerplug.commands.show_reply import blocks
from steerplug.engine.engine import Engine
from steerplug.engine.sampler import Sampling
from steerplug.engine.sampling import SETTINGS
from steerplug.library.presets import load_preset, shipped_folder
from steerplug.preset import Preset
from steerplug.session import Session, Settings
from steerplug.steering.file import write_steering
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta, Steering
from steerplug.store.store import Store
from tests.helpers.command import Call, Ended, plant
from tests.helpers.tiny_models import tiny_model

BLOCK = 12
SHIPPED = sorted(path.stem for path in shipped_folder().glob("*.yaml"))
PRESETS = {
    "sailor": """\
description: Talks like a sailor. Too much looks like shouting.
tags: [fun]
teacher:
  system: You are a sailor.
  examples: [{user: Hi, assistant: Ahoy!}]
fit: {method: mean}
checks: [{kind: includes, phrases: [ahoy, sea]}, {kind: max_words, count: 9}]
""",
    "warm": """\
contrast: {positive: Warm, negative: Cold}
fit: {method: mean, layers: [12], coefficient: 2}
strength: {default: 0.5, min: -2, max: 2}
""",
    "quick": """\
contrast: {positive: Love, negative: Hate}
fit: {method: actadd, layers: [10], coefficient: 3}
""",
    "deep": """\
contrast: {positive: Love, negative: Hate}
fit: {method: actadd, layers: [99], coefficient: 1}
""",
}


FIDELITY = {
    "gap_closed": 0.85, "gap_closed_interval": [0.8, 0.9], "n_prompts": 12, "coefficient": 2.0,
    "checks": {"bare": 0.0, "prompted": 1.0, "steered": 0.95, "n": 12},
    "prompt_tokens_saved": 17.0, "sweep": {"safe_min": 0.0, "safe_max": 1.5},
}  # fmt: skip


def planted(name: str, engine: Engine, store: Store) -> Steering:
    """Put random steering of one block in the place of a preset's."""
    preset, model = load_preset(name), engine.model
    z = np.random.default_rng(len(name)).normal(0, 3, model.n_embd).astype(np.float32)
    layers = {BLOCK: Delta.constant(z)}
    steering = Steering(name, model.n_embd, model.n_layer, layers, preset.scope)
    plant(preset, steering, engine, store, fidelity=FIDELITY)
    return steering


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Path:
    """A folder with the user's presets, one of them broken, and a cache with two of them built."""
    home = tmp_path_factory.mktemp("home")
    (home / "presets").mkdir()
    for name, text in PRESETS.items():
        head = f"schema: steerplug/preset-v1\nname: {name}\n"
        (home / "presets" / f"{name}.yaml").write_text(head + text)
    (home / "presets" / "torn.yaml").write_text("schema: steerplug/preset-v1\nname: torn\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERPLUG_PRESETS", str(home / "presets"))
        for name in ("sailor", "warm"):
            planted(name, engine, Store(home / "cache"))
    return home


@pytest.fixture(scope="session")
def tiny() -> Path:
    """A model of random weights, for what is handed on to any model."""
    return tiny_model("llama")


@pytest.fixture
def call(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Run a command line in this process."""
    monkeypatch.setenv("STEERPLUG_PRESETS", str(home / "presets"))
    monkeypatch.setenv("STEERPLUG_CACHE", str(home / "cache"))
    capsys.readouterr()

    def call(*words: object, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return call


# --- demo


@pytest.mark.usefixtures("quick_smollm2")
def test_demo_asks_one_question_bare_prompted_and_steered(call: Call) -> None:
    words = ("demo", "--preset", "sailor", "--question", "What is rain?", "--max-tokens", 8)
    shown = call(*words, "--json").json()
    assert list(shown) == [
        "model", "preset", "question", "bare", "prompted", "steered", "prompt_tokens_saved"
    ]  # fmt: skip
    assert (shown["model"], shown["preset"]) == ("smollm2", "sailor")
    assert shown["question"] == "What is rain?"
    bare, prompted, steered = (shown[way] for way in ("bare", "prompted", "steered"))
    assert len({bare["text"], prompted["text"], steered["text"]}) == 3
    assert bare["prompt_tokens"] == steered["prompt_tokens"] < prompted["prompt_tokens"]
    saved = prompted["prompt_tokens"] - steered["prompt_tokens"]
    assert shown["prompt_tokens_saved"] == saved
    assert all(0 < one["completion_tokens"] <= 8 for one in (bare, prompted, steered))
    assert all(one["seconds_to_first"] > 0 for one in (bare, prompted, steered))
    assert all(one["cached_tokens"] <= 1 for one in (bare, prompted, steered))
    assert "receipt" not in bare
    assert "receipt" not in prompted
    (said,) = steered["receipt"]["steering"]
    assert (said["name"], said["strength"], said["layers"]) == ("sailor", 1.0, [BLOCK])

    plain = call(*words)
    assert "\x1b" not in plain.out
    for text in (bare["text"], prompted["text"], steered["text"], "What is rain?"):
        assert text in plain.out
    assert f"{saved} prompt tokens saved" in plain.out
    assert "Next: `steerplug run -m model.gguf --steer sailor " in plain.err


def test_demo_of_a_contrast_has_no_prompt_to_compare_with(call: Call) -> None:
    shown = call("demo", "--preset", "warm", "--max-tokens", 4, "--json").json()
    assert shown["prompted"] is None
    assert shown["prompt_tokens_saved"] == 0
    assert shown["steered"]["receipt"]["steering"][0]["strength"] == 0.5
    assert shown["bare"]["cached_tokens"] == shown["steered"]["cached_tokens"] <= 1
    assert "prompt tokens saved" not in call("demo", "--preset", "warm", "--max-tokens", 4).out


# --- presets and show


def test_presets_lists_what_ships_what_is_yours_and_what_is_broken(call: Call, home: Path) -> None:
    listed = call("presets", "--json").json()
    assert listed["user_folder"] == str(home / "presets")
    by_name = {one["name"]: one for one in listed["presets"]}
    assert set(by_name) == {*SHIPPED, *PRESETS, "torn"}
    assert [name for name, one in by_name.items() if one["shipped"]] == SHIPPED
    assert by_name["torn"]["error"].startswith(str(home / "presets" / "torn.yaml"))
    assert "method" not in by_name["torn"]
    sailor = by_name["sailor"]
    assert (sailor["method"], sailor["scope"], sailor["tags"]) == ("mean", "response", ["fun"])
    assert sailor["error"] is None


def test_presets_piped_are_one_plain_line_each(call: Call) -> None:
    rows = [line.split("\t") for line in call("presets").out.splitlines()]
    assert all(len(row) == 8 for row in rows)
    by_name = {row[0]: row[1:] for row in rows}
    assert by_name["sailor"] == [
        "mean", "response", "yours", "fun", "Talks like a sailor. Too much looks like shouting.",
        "85% (80 to 90)", "17",
    ]  # fmt: skip
    assert by_name["quick"][5:] == ["-", "-"]
    assert by_name["weddings"][2] == "shipped"
    assert by_name["torn"][0] == "broken"
    assert "torn.yaml" in by_name["torn"][4]


@pytest.mark.parametrize("name", SHIPPED)
def test_show_tells_all_of_a_preset(call: Call, name: str) -> None:
    shown = call("show", name, "--json").json()
    preset = load_preset(name)
    about = {key: shown.pop(key) for key in ("digest", "path", "shipped")}
    assert about == {
        "digest": preset.digest, "path": str(shipped_folder() / f"{name}.yaml"), "shipped": True
    }  # fmt: skip
    assert Preset.from_mapping(shown) == preset
    page = call("show", name).out
    source = preset.teacher or preset.contrast
    assert source is not None
    texts = [preset.name, preset.version, preset.digest, preset.fit.method, preset.license]
    if preset.teacher is not None:
        texts += [one.assistant for one in preset.teacher.examples]
    if preset.contrast is not None:
        texts += [*preset.contrast.positive, *preset.contrast.negative]
    assert [text for text in texts if text.strip() not in page] == []


def test_show_puts_checks_and_strengths_in_words(call: Call) -> None:
    assert "includes ahoy, sea; max words 9" in call("show", "sailor").out
    assert "0.5 by default, -2 to 2" in call("show", "warm").out


# --- build


def test_build_finds_what_was_built_before(call: Call, home: Path) -> None:
    report = call("build", "sailor", "--json").json()
    path = Path(report["path"])
    assert report["from_cache"] is True
    assert path.is_relative_to(home / "cache")
    assert report["size_bytes"] == path.stat().st_size
    assert (report["preset"], report["model"], report["method"]) == ("sailor", "smollm2", "mean")
    assert report["layers"] == [BLOCK]
    assert report["fidelity"] == FIDELITY
    assert report["strength"] == {"default": 1.0, "min": 0.0, "max": 2.0}
    page = call("build", "sailor")
    assert page.err == ""
    for words in (
        "was kept from before", "block 12", "85% (80 to 90) of the way", "prompted 100%",
        "17 in every request", "0 to 1.5, where replies read no worse", str(path),
    ):  # fmt: skip
        assert words in page.out


@pytest.mark.usefixtures("quick_smollm2")
def test_build_makes_a_preset_once_and_again_when_forced(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path))
    first = call("build", "quick", "--json")
    made = first.json()
    assert made["from_cache"] is False
    assert (made["layers"], made["scope"]) == ([10], "front")
    assert made["fidelity"]["coefficient"] == 3.0
    assert f"later runs find it in {tmp_path}" in first.err
    assert "measuring blocks ..." in first.err
    again = call("build", "quick", "--json")
    assert again.json()["from_cache"] is True
    assert again.err == ""
    forced = call("build", "quick", "--force", "--json").json()
    assert forced["from_cache"] is False
    assert forced["digest"] == made["digest"]
    told = call("build", "quick", "--force").err
    it = "quick -m smollm2"
    assert f'Next: `steerplug run --steer {it} "..."`, or `steerplug try {it}`.' in told


# --- run


def test_run_streams_the_answer_and_keeps_the_receipt_apart(call: Call) -> None:
    words = ("run", "-s", "1.5*sailor - warm", "What is rain?", "--seed", 7, "--max-tokens", 9)
    plain = call(*words)
    reply = call(*words, "--json").json()
    assert plain.out == reply["text"] + "\n"
    assert (reply["model"], reply["steering"]) == ("smollm2", "1.5*sailor - warm")
    assert set(reply) == {
        "model", "steering", "text", "finish_reason", "usage", "receipt", "seed", "seconds",
        "seconds_to_first", "tool_calls", "reasoning",
    }  # fmt: skip
    strengths = {said["name"]: said["strength"] for said in reply["receipt"]["steering"]}
    assert strengths == {"sailor": 1.5, "warm": -0.5}
    assert "steered by 1.5*sailor and -0.5*warm: " in plain.err
    usage = reply["usage"]
    assert f"{usage['prompt_tokens']} prompt + 9 reply tokens, cut at the limit" in plain.err


def test_run_passes_every_setting_on(call: Call, tiny: Path) -> None:
    def answer(*words: object) -> Any:
        return call("run", "Count.", "-m", tiny, "--max-tokens", 12, "--json", *words).json()

    greedy = answer("--temperature", 0)
    assert greedy["receipt"]["steering"] == []
    assert answer("--temperature", 0, "-s", "none")["text"] == greedy["text"]
    for one in ("--top-k=1", "--top-p=0", "--min-p=1"):
        assert answer("--temperature", 5, one)["text"] == greedy["text"]
    assert answer("--temperature", 0, "--repeat-penalty", 10)["text"] != greedy["text"]
    warm = ("--temperature", 10, "--min-p", 0, "--top-p", 1, "--seed", 3)
    seeded = answer(*warm)
    assert seeded["seed"] == 3
    assert answer(*warm)["text"] == seeded["text"] != greedy["text"]
    word = seeded["text"].split()[2]
    stopped = answer(*warm, "--stop", "no such text", "--stop", word)
    assert stopped["text"] == seeded["text"][: seeded["text"].index(word)] != ""
    assert stopped["finish_reason"] == "stop"
    told = answer("--temperature", 0, "--system", "Answer in French, and at length.")
    assert told["usage"]["prompt_tokens"] != greedy["usage"]["prompt_tokens"]
    raw = answer("--temperature", 0, "--raw")
    assert raw["usage"]["prompt_tokens"] < greedy["usage"]["prompt_tokens"]


@pytest.mark.parametrize("command", ["run", "chat"])
def test_every_setting_of_the_sampler_is_an_option(
    call: Call, tiny: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    asked = list[Settings]()
    stream_chat = Session.stream_chat

    def stream(session: Session, messages: Any, steering: Any, settings: Settings) -> Any:
        asked.append(settings)
        return stream_chat(session, messages, steering, replace(settings, max_tokens=1))

    monkeypatch.setattr(Session, "stream_chat", stream)
    said: dict[str, Any] = {
        "temperature": 0.5, "top_k": 7, "top_p": 0.8, "min_p": 0.1, "repeat_penalty": 1.2,
        "seed": 11, "frequency_penalty": -0.5, "presence_penalty": 1.5, "repeat_last_n": -1,
        "typical_p": 0.9, "top_n_sigma": 1.5, "xtc_probability": 0.1, "xtc_threshold": 0.2,
        "dry_multiplier": 0.8, "dry_base": 1.5, "dry_allowed_length": 3, "dry_penalty_last_n": 9,
        "mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2, "dynatemp_range": 0.1,
        "dynatemp_exponent": 1.5,
    }  # fmt: skip
    assert set(said) == set(SETTINGS)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in said.items()]
    more = ["--dry-sequence-breaker", "a", "--dry-sequence-breaker", "b", "--stop", ""]
    prompt, stdin = (["Hi"], b"") if command == "run" else ([], b"Hi\n")
    of = ("-m", tiny, "--json")
    for fresh in (["--seed", -1, "--max-tokens", 3], ["--max-tokens", -1, "--stop", "."]):
        assert call(command, *prompt, *words, *more, *fresh, *of, stdin=stdin).code == 0
    first, second = asked
    wanted = Sampling(**said, dry_sequence_breakers=("a", "b"))
    assert (first.sampling, first.max_tokens) == (replace(wanted, seed=None), 3)
    assert (second.sampling, second.max_tokens, second.stop) == (wanted, -1, ("", "."))
    refused = call(command, *prompt, "--typical-p", 1.5, stdin=stdin)
    assert (refused.code, refused.err) == (2, "steerplug: typical_p is 1.5; choose 0.0 to 1.0.\n")


def test_run_reads_its_prompt_from_stdin(call: Call, tiny: Path) -> None:
    words = ("-m", tiny, "--temperature", 0, "--max-tokens", 5, "--json")
    piped = call("run", "-", *words, stdin="What is 雨?\n".encode()).json()
    given = call("run", "What is 雨?", *words).json()
    assert (piped["text"], piped["usage"]) == (given["text"], given["usage"])


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((21,), "block 21"),
        ((1, 2, 3, 7), "blocks 1-3, 7"),
        ((1, 3, 5, 7), "4 blocks, 1 to 7"),
    ],
)
def test_blocks_are_told_briefly(layers: tuple[int, ...], words: str) -> None:
    assert blocks(layers) == words


# --- chat


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the replies of a chat short, and the same in every run."""
    settings = Settings(Sampling(temperature=0), max_tokens=8)
    monkeypatch.setattr("steerplug.session.Settings", lambda *_, **__: settings)


@pytest.mark.usefixtures("short")
def test_chat_remembers_and_changes_its_steering_between_replies(call: Call) -> None:
    lines = """\
Say yes.
/steer 2*sailor
Say no.
/system Be brief.
Say yes.
/reset
/system
/steer none
Say yes.
/quit
never asked
"""
    ended = call("chat", "--json", stdin=lines.encode())
    assert ended.code == 0, ended.err
    replies = [json.loads(line) for line in ended.out.splitlines()]
    first, steered, told, reset = replies
    assert first["steering"] == "none"
    assert (steered["steering"], steered["model"]) == ("2*sailor", "smollm2")
    assert first["receipt"]["steering"] == reset["receipt"]["steering"] == []
    assert steered["receipt"]["steering"][0]["strength"] == 2.0
    tokens = [one["usage"]["prompt_tokens"] for one in replies]
    assert tokens[0] < tokens[1] < tokens[2]
    assert (tokens[3], reset["text"]) == (tokens[0], first["text"])
    assert told["steering"] == "2*sailor"


@pytest.mark.usefixtures("short")
def test_chat_piped_is_plain_text(call: Call) -> None:
    ended = call("chat", "-s", "sailor", stdin=b"/help\n\nSay yes.\n/receipt\n/presets\n")
    assert ended.code == 0, ended.err
    assert "\x1b" not in ended.out + ended.err
    assert ended.out.strip()
    assert "> " not in ended.out
    assert "/steer MIX" in ended.err
    assert "steered by sailor: " in ended.err
    assert "steered by sailor 1.0.0 at strength 1 (block 12): " in ended.err
    assert ", pirate, quick, " in ended.err


def test_a_chat_begins_with_a_system_prompt(call: Call, tiny: Path) -> None:
    says = ("chat", "-m", tiny, "--json", "--max-tokens", 1)
    bare, told = (
        call(*says, *system, stdin=b"Hello\n").json()["usage"]["prompt_tokens"]
        for system in ((), ("--system", "You are a sailor of few words, who is tired of the sea."))
    )
    assert told != bare


# --- doctor

CHECKS = [
    "native library", "llama-cpp-python", "processor", "cache folder", "preset folder", "model",
    "tensors", "hook", "kernel", "other routes", "untouched rows", "strength 0", "logits",
    "threads",
]  # fmt: skip


@pytest.fixture
def tidy(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> Call:
    """The same, without any broken preset."""
    assert home.is_dir()
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    return call


def test_doctor_proves_that_the_model_can_be_steered(tidy: Call, engine: Engine) -> None:
    found = tidy("doctor", "--json").json()
    assert found["ok"] is True
    assert [check["name"] for check in found["checks"]] == CHECKS
    assert all(set(check) == {"name", "ok", "detail"} for check in found["checks"])
    details = {check["name"]: check["detail"] for check in found["checks"]}
    assert "on each of 30 blocks" in details["hook"]
    assert float(details["kernel"].rsplit(" ", 1)[1]) < 1e-5
    if sys.platform == "linux":
        assert "steered as a part of llama.cpp's graph" in details["tensors"]
        others = re.findall(r"(operations of the device|the callback) .*? ([\d.e-]+)(?:;|$)",
                            details["other routes"])
        assert [name for name, _ in others] == ["operations of the device", "the callback"]
        assert all(float(error) < 1e-5 for _, error in others)
    model = engine.model
    assert found["model"] == {
        "name": model.metadata("general.name"), "path": str(model.path.resolve()),
        "architecture": "llama", "n_embd": 576, "n_layer": 30,
        "n_ctx_train": model.n_ctx_train, "chat_template": True,
        "recurrent": False, "fingerprint": model.fingerprint,
    }  # fmt: skip


DIES = """
import os, signal, sys
class Dies:
    def find_spec(self, name, path=None, target=None):
        if name == "{}":
            print("an illegal instruction", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGILL)
sys.meta_path.insert(0, Dies())
"""


def failed(ended: Ended) -> dict[str, str]:
    assert ended.code == 2
    found = json.loads(ended.out)
    assert found["ok"] is False
    return {check["name"]: check["detail"] for check in found["checks"] if not check["ok"]}


def failures(model: Path) -> set[str]:
    """Return which checks fail in this process, where they can be interfered with."""
    return {check.name for check in Examination(str(model)).checks() if not check.ok}


@pytest.mark.usefixtures("tidy")
def test_doctor_notices_when_steering_does_not_happen(
    tiny_llama: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerplug.engine.proofs.lay_out", lambda _mix: None)
    assert failures(tiny_llama()) == {
        "kernel", "other routes", "untouched rows", "logits",
    }  # fmt: skip


@pytest.mark.usefixtures("tidy")
def test_doctor_notices_a_kernel_that_computes_something_else(
    tiny_llama: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerplug.engine.proofs.steer_row", lambda h, _terms, _il: 1.01 * h)
    assert failures(tiny_llama()) == {"kernel", "other routes"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize(("dies_in", "check"), [("llama_cpp", "llama-cpp-python"),
                                                ("steerplug.engine.proofs", "hook")])
def test_doctor_survives_what_dies_in_its_hands_and_says_where(
    dies_in: str, check: str, tidy: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DIES.format(dies_in))
    monkeypatch.syspath_prepend(str(tmp_path))
    reason = failed(tidy("doctor", "--json"))
    assert set(reason) == {check}
    assert "llama.cpp ended the process here (SIGILL: an illegal instruction)" in reason[check]
    assert "pip install --force-reinstall" in reason[check]


def test_doctor_says_what_keeps_llama_cpp_from_loading(
    tidy: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    reason = failed(tidy("doctor", "--json"))
    assert set(reason) == {"llama-cpp-python"}
    assert "cannot be loaded (Shared library with base name 'llama' not found)" in (
        reason["llama-cpp-python"]
    )


def test_doctor_says_why_a_file_is_no_model(tidy: Call, tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"no model at all")
    ended = tidy("doctor", "-m", tmp_path / "no.gguf", "--json")
    assert failed(ended) == {"model": "no.gguf is not a GGUF file; choose a model in GGUF format."}
    assert json.loads(ended.out)["model"] is None
    assert len(json.loads(ended.out)["checks"]) == 6


def test_doctor_examines_a_model_without_words_or_chat_template(
    tidy: Call, tiny_llama: Callable[..., Path]
) -> None:
    path = tiny_llama()
    found = tidy("doctor", "-m", path, "--json").json()
    assert [check["name"] for check in found["checks"]] == CHECKS
    assert (found["model"]["n_layer"], found["model"]["chat_template"]) == (5, False)
    plain = tidy("doctor", "-m", path)
    assert [line[:4] for line in plain.out.splitlines()[: len(CHECKS)]] == ["ok  "] * len(CHECKS)
    assert f"{path.name} can be steered on this machine." in plain.out


def test_doctor_reports_a_broken_preset_and_an_unwritable_cache(
    call: Call, tmp_path: Path, tiny_llama: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "file"))
    said = failed(call("doctor", "-m", tiny_llama(), "--json"))
    assert set(said) == {"cache folder", "preset folder"}
    assert "STEERPLUG_CACHE" in said["cache folder"]
    assert "torn.yaml" in said["preset folder"]


# --- refusals


def refused(ended: Ended, *words: str) -> None:
    """One sentence on stderr, nothing on stdout, exit code 2."""
    assert ended.code == 2
    assert ended.out == ""
    (sentence,) = ended.err.splitlines()
    assert sentence.startswith("steerplug: ")
    assert sentence.endswith((".", ")", "?"))
    assert "\x1b" not in sentence
    assert [word for word in words if word not in sentence] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--foo"], ["--foo", "steerplug --help"]),
        (["demonstrate"], ["demonstrate"]),
        (["run"], ["prompt is empty", "pipe it in"]),
        (["run", "hi", "--max-tokens", "few"], ["--max-tokens", "'few' is no", "integer"]),
        (["run", "hi", "--top-p", "much"], ["--top-p", "'much' is no number"]),
        (["run", "hi", "--carrier", "foot"], ["--carrier", "'foot' is not one of 'auto'"]),
        (["run", "hi", "--stear", "x"], ["no option `--stear`; did you mean `--steer`? See `st"]),
        (["run", "hi", "--zzz", "x"], ["no option `--zzz`; see `steerplug run --help`."]),
        (["serve", "--port", "99999"], ["--port", "99999", "65535"]),
        (["bench", "--rounds", "1"], ["--rounds", "1", "3"]),
        (["serve", "--config", "no.yaml"], ["no.yaml", "check the path"]),
        (["run", "hi", "--max-tokens", "0"], ["max_tokens is 0"]),
        (["run", "hi", "--temperature", "nan"], ["temperature is nan"]),
        (["run", "hi", "--top-p", "2"], ["top_p is 2.0"]),
        (["run", ""], ["prompt is empty"]),
        (["run", " \n", "--raw"], ["prompt is empty"]),
        (["run", "-"], ["prompt is empty"]),
        (["run", "hi", "--raw", "--system", "x"], ["--raw", "--system"]),
        (["demo", "--question", " "], ["question is empty"]),
        (["show", "sailer"], ["`sailer`", "did you mean `sailor`?"]),
        (["show", "torn"], ["torn.yaml"]),
        (["show", "no/such.yaml"], ["no/such.yaml"]),
        (["build", "sailer"], ["did you mean `sailor`?"]),
        (["build", "deep"], ["block 99", "0 to 29"]),
        (["demo", "--preset", "nothing-like-it"], ["nothing-like-it", "weddings"]),
        (["run", "hi", "-m", "smolm2"], ["did you mean `smollm2`?"]),
        (["run", "hi", "-m", "xyz"], ["no model `xyz`. Give"]),
        (["run", "hi", "-m", "hf:org/repo"], ["hf:org/repo/file.gguf"]),
        (["chat", "-m", "/"], ["is a folder"]),
        (["run", "hi", "-s", "sailer"], ["did you mean `sailor`?"]),
        (["run", "hi", "-s", ""], ["the mix is empty"]),
        (["run", "hi", "-s", "sailor warm"], ["at `warm`"]),
        (["run", "hi", "-s", "nan*sailor"], ["`nan`", "finite"]),
        (["run", "hi", "-s", "inf*sailor"], ["`inf`", "finite"]),
        (["run", "hi", "-s", "9*sailor"], ["strength 9", "-2 to 2"]),
        (["demo", "--max-tokens", "0"], ["--max-tokens", "1"]),
        (["chat", "-s", "9*sailor"], ["strength 9"]),
    ],
)
def test_what_cannot_be_done_ends_in_one_sentence(
    call: Call, line: list[str], words: list[str]
) -> None:
    refused(call(*line), *words)


def test_a_near_name_is_suggested_and_then_no_other(call: Call) -> None:
    said = call("show", "sailer").err
    assert said == "steerplug: there is no preset `sailer`; did you mean `sailor`?\n"
    said = call("prests").err
    assert said == (
        "steerplug: no such command 'prests'. Did you mean 'presets'? See `steerplug --help`.\n"
    )
    assert "id you mean" not in call("xyzzy").err + call("show", "xyzzy").err


def test_a_prompt_longer_than_the_context_is_refused(call: Call) -> None:
    refused(call("run", "word " * 9000), "tokens", "shorten the prompt")


def test_a_prompt_that_is_not_text_is_refused(call: Call) -> None:
    refused(call("run", "-", stdin=b"caf\xe9"), "UTF-8", "byte 3")


def test_a_damaged_model_is_refused(call: Call, model_path: Path, tmp_path: Path) -> None:
    whole = model_path.read_bytes()[:8_000_000]
    for size, word in ((1_000, "damaged"), (len(whole), "download it again")):
        torn = tmp_path / f"{size}.gguf"
        torn.write_bytes(whole[:size])
        refused(call("run", "hi", "-m", torn), torn.name, word)


def test_a_model_without_chat_template_is_refused_before_the_first_message(
    call: Call, tiny_llama: Callable[..., Path]
) -> None:
    for words in (["run", "hi"], ["chat"]):
        refused(call(*words, "-m", tiny_llama()), "chat template")


def test_a_model_without_tokeniser_is_refused(
    call: Call, tiny_llama: Callable[..., Path]
) -> None:
    refused(call("run", "--raw", "hi", "-m", tiny_llama()), "no tokeniser")


def test_steering_for_another_width_is_refused(call: Call, tmp_path: Path) -> None:
    narrow = Steering("narrow", 64, 30, {3: Delta.constant(np.ones(64, np.float32))})
    identity = Identity("narrow", "1.0.0", "x", "other", "llama", "", "mean", 0, "0")
    write_steering(tmp_path / "narrow.gguf", narrow, identity)
    refused(call("run", "hi", "-s", tmp_path / "narrow.gguf"), "64", "576")
    refused(call("show", tmp_path / "narrow.gguf"), "steering numbers")


def test_a_cache_folder_that_cannot_be_written_is_refused(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "file"))
    refused(call("build", "quick"), str(tmp_path / "file"), "set STEERPLUG_CACHE")


@pytest.mark.parametrize(
    ("line", "word"),
    [("/sing", "/sing"), ("/steer sailer", "did you mean `sailor`?"),
     ("/steer 9*sailor", "strength 9")],
)  # fmt: skip
def test_a_piped_chat_ends_at_what_cannot_be_done(call: Call, line: str, word: str) -> None:
    ended = call("chat", "--json", stdin=f"{line}\nnever asked\n".encode())
    refused(ended, word)


def test_the_version_and_the_help_need_no_command(call: Call) -> None:
    assert call("--version").out == f"steerplug {steerplug.__version__}\n"
    helped = call()
    assert helped == call("--help")
    assert "steerplug demo" in " ".join(helped.out.split())
