"""`steerplug diff`: what two presets say differently, and how alike what they add is."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from steerplug.commands.main import main
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.scope import Prompt
from steerplug.evaluate.similarity import similarities
from steerplug.preset import Preset
from steerplug.preset.compare import Change, changes
from steerplug.steering.file import write_steering
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta, Steering

A = """\
schema: steerplug/preset-v1
name: a
version: 1.0.0
tags: [fun, sea]
teacher:
  system: |
    You are a sailor.
    Be short.
  examples: [{user: Hi, assistant: Ahoy}, {user: Bye, assistant: Aye}]
fit: {method: psr}
"""
B = """\
schema: steerplug/preset-v1
name: a
version: 1.1.0
tags: [sea]
teacher:
  system: |
    You are an old sailor.
    Be short.
  examples: [{user: Well, assistant: Arr}, {user: Hi, assistant: Ahoy}, {user: Bye, assistant: Aye}]
fit: {method: const}
strength: {max: 1.5}
decoding: {format: json}
"""


def test_words_are_compared_key_by_key_item_by_item_line_by_line() -> None:
    a, b = Preset.from_yaml(A.encode()), Preset.from_yaml(B.encode())
    assert changes(a, b) == [
        Change("version", "1.0.0", "1.1.0"),
        Change("tags", "fun", None),
        Change("teacher.system", "You are a sailor.", "You are an old sailor."),
        Change("teacher.examples", None, '{"user": "Well", "assistant": "Arr"}'),
        Change("fit.method", "psr", "const"),
        Change("strength.max", "2.0", "1.5"),
        Change("decoding", None, '{"format": "json"}'),
    ]
    assert changes(a, a) == []
    assert [(c.new, c.old) for c in changes(b, a)] == [(c.old, c.new) for c in changes(a, b)]


PROMPT = Prompt((1, 504, 5345, 282, 4649, 314))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare at the tokens of one short reply."""
    monkeypatch.setattr("steerplug.commands.diff.CHATS", 1)
    monkeypatch.setattr("steerplug.evaluate.similarity._REPLY", 6)


def compared(a: Steering, b: Steering, engine: Engine, context: Context) -> list[float | None]:
    return [one.cosine for one in similarities(a, b, engine, Reader(context), [PROMPT])]


def constant(model: Model, seed: int, *layers: int) -> Steering:
    rng = np.random.default_rng(seed)
    deltas = {
        il: Delta.constant(rng.normal(0, 1, model.n_embd).astype(np.float32)) for il in layers
    }
    return Steering("c", model.n_embd, model.n_layer, deltas)


def gated(model: Model, seed: int, order: tuple[int, ...] = (0, 1)) -> Steering:
    rng = np.random.default_rng(seed)
    W, Z = rng.normal(0, 0.05, (2, 2, model.n_embd))
    b = np.array([0.5, 0.3])
    rows = list(order)
    delta = Delta.gated(W[rows], b[rows], Z[rows])
    return Steering("g", model.n_embd, model.n_layer, {7: delta})


def test_the_cosine_of_constants_is_theirs(
    model: Model, engine: Engine, context: Context
) -> None:
    a, b = constant(model, 1, 4, 9), constant(model, 2, 9, 20)
    z, y = a.layers[9].z[0], b.layers[9].z[0]
    wanted = float(z @ y / np.linalg.norm(z) / np.linalg.norm(y))
    assert compared(a, b, engine, context) == [None, pytest.approx(wanted, abs=1e-5), None]
    assert compared(a, a, engine, context) == pytest.approx([1.0, 1.0])
    twice = Steering("t", model.n_embd, model.n_layer, {
        il: Delta.constant(-2 * delta.z) for il, delta in a.layers.items()
    })  # fmt: skip
    found = similarities(a, twice, engine, Reader(context), [PROMPT])
    assert [one.cosine for one in found] == pytest.approx([-1.0, -1.0])
    assert all(one.size_b == pytest.approx(2 * one.size_a) for one in found)


def test_gates_are_compared_by_what_they_do_and_not_by_their_order(
    model: Model, engine: Engine, context: Context
) -> None:
    a, same = gated(model, 3), gated(model, 3, (1, 0))
    assert compared(a, same, engine, context) == pytest.approx([1.0], abs=1e-5)
    (other,) = compared(a, gated(model, 4), engine, context)
    assert other is not None
    assert abs(other) < 0.5


def test_the_command_shows_words_and_numbers_or_says_what_to_build(
    folder: Path, tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "empty"))
    edited = (folder / "sad.yaml").read_text().replace("tears", "rain")
    (tmp_path / "sad.yaml").write_text(edited)
    assert main(["diff", "sad", str(tmp_path / "sad.yaml")]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "contrast.positive",
        "  - What a sad terrible day of tears",
        "  + What a sad terrible day of rain",
    ]
    assert "`steerplug build sad -m smollm2`" in said.err
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["diff", "sad", str(tmp_path / "sad.yaml")]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert [row.rstrip() for row in shown[1:3]] == ["  - What a sad terrible", "    day of tears"]
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.delenv("COLUMNS")
    identity = Identity("c", "1.0.0", "0", model.fingerprint, "llama", "", "const", 0, "0")
    files = [str(tmp_path / f"{seed}.gguf") for seed in (1, 2)]
    for seed, file in enumerate(files):
        write_steering(Path(file), constant(model, seed, 9), identity)
    assert main(["diff", *files, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["words"], report["not_built"]) == ([], [])
    (block,) = report["blocks"]
    assert block["il"] == 9
    assert abs(block["cosine"]) < 0.2
    assert main(["diff", "pirate", "cheerful"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert any(row.split()[:1] == ["28"] for row in rows)
    assert "  + You are" in "\n".join(rows)
