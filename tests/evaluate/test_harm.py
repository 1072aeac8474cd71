"""The tasks for lm-evaluation-harness: whole, and handed over as it asks for them."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steerplug import evaluate
from steerplug.evaluate.harm.data import load

FOLDER = Path(evaluate.__file__).parent / "harm"
TASKS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> list[dict[str, Any]]:
    lines = (FOLDER / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_questions_with_one_right_answer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over = SimpleNamespace(Dataset=SimpleNamespace(from_list=list))
    monkeypatch.setitem(sys.modules, "datasets", handed_over)
    rows = load(name, version=1.0)["test"]
    assert rows == read(name)
    assert len({row["question"] for row in rows}) == len(rows) == 24
    for row in rows:
        assert len(set(row["choices"])) == 3
        assert 0 <= row["answer"] < 3
    assert len({row["answer"] for row in rows}) == 3  # not always in the same place
    text = (FOLDER / f"{name}.yaml").read_text()
    assert f"task: steerplug_{name}\n" in text
    assert f"dataset_kwargs: {{name: {name}}}\n" in text


def test_sums_are_right() -> None:
    for row in read("sums"):
        a, sign, b = row["question"].partition("?")[0].split()[-3:]
        right = int(a) + int(b) if sign == "plus" else int(a) - int(b)
        assert row["choices"][row["answer"]] == str(right)
        assert row["choices"].count(str(right)) == 1
