"""`steerplug bench --instructions FILE` on a tiny model and planted steering; its checkers."""

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerplug.commands.main import main
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.errors import RequestError
from steerplug.evaluate import instructions
from steerplug.evaluate.instructions import (
    Task,
    measure_instructions,
    passes,
    preset_of,
    read_tasks,
)
from steerplug.steering.value import Delta, Mix, Steering
from steerplug.store.store import Store
from tests.helpers.command import plant
from tests.helpers.tiny_models import tiny_model

ENDING = "Is there anything else I can help with?"


def row(id: str, prompt: str = "Why? No commas.", **kwargs: Any) -> dict[str, Any]:
    return {
        "key": 1, "prompt": prompt, "prompt_without_instruction": "Why?",
        "instruction_id_list": [id], "kwargs": [kwargs],
    }  # fmt: skip


ROWS = [
    row("punctuation:no_comma", num_words=None),
    row("startend:end_checker", "Why? End with that.", end_phrase=ENDING),
    row("startend:end_checker", end_phrase="Bye."),
    row("punctuation:no_comma", "How? Leave out commas."),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    return path


def test_tasks_are_those_of_fixed_instructions(file: Path) -> None:
    tasks = read_tasks(file)
    assert [task.name for task in tasks] == ["no-comma", "end-phrase", "no-comma"]
    assert tasks[1] == Task(
        "end-phrase", "Why? End with that.", "Why?", "startend:end_checker",
        {"end_phrase": ENDING},
    )  # fmt: skip


def test_every_instruction_is_a_preset() -> None:
    for name in instructions._known():
        preset = preset_of(name)
        assert (preset.name, preset.fit.method) == (name, "auto")
        assert preset.teacher
        assert preset.teacher.system
    assert len(instructions._known()) == 9


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", r"tasks\.jsonl, line 1 is no task"),
        ("\n" + json.dumps({"prompt": "Why?"}), r"tasks\.jsonl, line 2 is no task \(KeyError"),
        ("[]", "line 1 is no task"),
        ("[" * 3000, "line 1 is no task"),
        (json.dumps(row("some:thing")), "no task of .* has one of the instructions no-comma, quot"),
        ("\udcff", "cannot be read"),
        (json.dumps(row("punctuation:no_comma") | {"prompt": 7}),
         r"line 1 is no task .*its prompt is no text"),
        (json.dumps(row("punctuation:no_comma") | {"prompt_without_instruction": None}),
         r"line 1 is no task .*its prompt_without_instruction is no text"),
    ],
)
def test_what_is_no_file_of_tasks_is_refused(file: Path, text: str, sentence: str) -> None:
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RequestError, match=sentence):
        read_tasks(file)
    file.unlink()
    with pytest.raises(RequestError, match="cannot be read"):
        read_tasks(file)


def test_no_task_of_a_file_is_left_out_without_a_word(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = file.stat().st_size
    monkeypatch.setattr(instructions, "MAX_BYTES", size)
    assert len(read_tasks(file)) == 3
    for fewer in (size - 1, size // 2):
        monkeypatch.setattr(instructions, "MAX_BYTES", fewer)
        with pytest.raises(RequestError, match=rf"jsonl take {size} bytes, more than {fewer}; ch"):
            read_tasks(file)


def test_only_a_line_ends_a_task(file: Path) -> None:
    """Python takes more for the end of a line than JSON does."""
    prompt = "Why?\N{LINE SEPARATOR}No commas."
    text = json.dumps(row("punctuation:no_comma", prompt), ensure_ascii=False)
    file.write_text(f"\ufeff{text}\r\n{text}\r\n", encoding="utf-8", newline="")
    assert [task.prompt for task in read_tasks(file)] == [prompt] * 2


def test_checkers_judge_as_they_should() -> None:
    pytest.importorskip("if_verifiable")
    instructions.check_checkers()
    for id, kwargs, good, bad in (
        ("punctuation:no_comma", {}, "No. Never.", "No, never."),
        ("startend:quotation", {}, '"Yes."', 'He said "yes".'),
        ("change_case:english_lowercase", {}, "the weather is bad, and we stay at home.",
         "The weather is bad."),
        ("detectable_format:title", {}, "<<Rain>> It falls.", "Rain falls."),
        ("change_case:english_capital", {}, "THE WEATHER IS BAD, AND WE STAY AT HOME.",
         "The weather is bad."),
        ("detectable_format:constrained_response", {}, "My answer is yes.", "Yes."),
        ("detectable_format:json_format", {}, '{"a": 1}', "a: 1"),
        ("startend:end_checker", {"end_phrase": ENDING}, f"Rain. {ENDING}", f"{ENDING} Rain."),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 3},
         "*a* and *b* and *c*", "*a* and *b*"),
    ):  # fmt: skip
        task = Task("x", "Why?", "Why?", id, kwargs)
        assert (passes(task, good), passes(task, bad), passes(task, "")) == (True, False, False), id


# --- a tiny model


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with closing(Model(tiny_model("llama"))) as model:
        yield model


def planted(model: Model, name: str) -> Steering:
    z = 9 * np.random.default_rng(0).standard_normal(model.n_embd).astype(np.float32)
    return Steering(name, model.n_embd, model.n_layer, {1: Delta.constant(z)})


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path))
    monkeypatch.setattr(instructions, "REPLY_TOKENS", 4)
    monkeypatch.setattr(instructions, "COMPARED_TOKENS", 3)


@pytest.mark.usefixtures("short")
def test_four_ways_are_compared_task_by_task(
    model: Model, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = read_tasks(file)
    mixes = {task.name: Mix.of(planted(model, task.name)) for task in tasks}
    idle = {name: Mix() for name in mixes}
    said = []

    def judge(task: Task, reply: str) -> bool:
        said.append((task, reply))
        return task.name == "end-phrase" or len(said) > 9  # the last three are those of both

    monkeypatch.setattr(instructions, "passes", judge)
    told = measure_instructions(tasks, mixes, model)
    assert [task for task, _ in said] == tasks * 4
    assert list(told["by_instruction"]) == ["no-comma", "end-phrase", "all"]
    no_comma, everything = told["by_instruction"]["no-comma"], told["by_instruction"]["all"]
    assert (no_comma["n"], everything["n"], told["n_tasks"]) == (2, 3, 3)
    assert no_comma["kept"] == {"none": 0, "prompt": 0, "steering": 0, "both": 1}
    assert no_comma["gain"] == 1
    assert no_comma["gain_interval"][0] < 0.5  # of two tasks
    assert everything["gain"] == pytest.approx(2 / 3, abs=1e-4)
    assert everything["gap_closed"] != 0
    assert measure_instructions(tasks, idle, model)["by_instruction"]["all"]["gap_closed"] == 0


@pytest.mark.usefixtures("short")
def test_the_command_builds_what_the_tasks_need(
    model: Model, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(instructions, "check_checkers", lambda: None)
    monkeypatch.setattr(instructions, "passes", lambda _task, _reply: True)
    with closing(Engine(model, n_ctx=256, n_threads=1)) as engine:
        for name in ("no-comma", "end-phrase"):
            plant(preset_of(name), planted(model, name), engine, Store(tmp_path))
    words = ["bench", "-m", str(tiny_model("llama")), "--instructions", str(file)]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said) == ["name", "fingerprint", "quick", "command", "version", "commit",
                          "instructions", "seconds"]  # fmt: skip
    model_name = tiny_model("llama").name
    assert said["command"] == f"steerplug bench -m {model_name} --instructions tasks.jsonl"
    assert main(words) == 0
    assert "both less prompt" in capsys.readouterr().out


def test_without_checkers_nothing_begins(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "if_verifiable", None)
    assert main(["bench", "--instructions", str(file)]) == 2
    assert "`pip install if-verifiable`" in capsys.readouterr().err
    assert main(["bench", "--quick"]) == 2
    assert "--quick only works with --rivals or --instructions; leave" in capsys.readouterr().err
