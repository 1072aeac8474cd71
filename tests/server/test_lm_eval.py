"""lm-evaluation-harness against the server, bare and steered: does a preset do harm?"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerplug.engine.sampler import Sampling
from steerplug.fit.measure import log_softmax
from steerplug.session import Settings
from tests.helpers.oracle import reading_once
from tests.helpers.serving import NAME, PIRATE, Client, served, session

QUESTIONS: list[dict[str, Any]] = [
    {"question": "The capital of France is", "choices": ["Paris", "Rome", "a green potato"],
     "answer": 0},
    {"question": "Water freezes when it gets very", "choices": ["hot", "cold"], "answer": 1},
    {"question": "\N{PARTY POPPER} The sun rises in the", "choices": ["east", "west"], "answer": 0},
]  # fmt: skip
TASK = """\
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
CHOOSE = """\
task: choose
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
"""
GO_ON = """\
task: go_on
output_type: generate_until
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of three questions, and the model's tokeniser as transformers reads it."""
    folder = tmp_path_factory.mktemp("lm_eval")
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (folder / "tasks").mkdir()
    for name, task in (("choose", CHOOSE), ("go_on", GO_ON)):
        (folder / "tasks" / f"{name}.yaml").write_text(task + TASK.format(data=data))
    path = session().model.path
    with warnings.catch_warnings(), reading_once():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer.save_pretrained(folder / "tokenizer")
    return folder


HARNESS = """\
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
models, address, tokenizer, tasks = json.loads(sys.argv[1])
known = TaskManager(include_path=tasks, include_defaults=False)
found = {
    model: simple_evaluate(
        "local-completions", f"base_url={address},model={model},tokenizer={tokenizer}",
        ["choose", "go_on"], batch_size=batch, task_manager=known, bootstrap_iters=0,
    )["samples"]
    for model, batch in models.items()
}
json.dump(found, sys.stdout, default=str)
"""
"""The harness for several models at once: its own thousands of tasks take longest to be looked for.

Batch sizes by model, the server's address, and the folders of the tokeniser and of the tasks are
given; for each model and task it prints what it noted of each question.
"""


def evaluate(client: Client, folder: Path, batches: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Run the harness, and return what it noted of each model, task and question."""
    told = [batches, f"{client.root}/v1/completions", str(folder / "tokenizer"),
            str(folder / "tasks")]  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", HARNESS, json.dumps(told)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
             "HF_HOME": str(folder / "hf")},
        check=True, capture_output=True,
    )  # fmt: skip
    noted: dict[str, dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return noted


def likely(samples: list[dict[str, Any]]) -> list[list[float]]:
    """Return for each choice of each question how likely it was."""
    return [[float(x) for x, _is_greedy in sample["filtered_resps"]] for sample in samples]


@pytest.fixture(scope="module")
def noted(folder: Path) -> dict[str, dict[str, Any]]:
    with served() as client:
        return evaluate(client, folder, {NAME: 1, PIRATE: 8})


def test_bare_it_finds_what_transformers_finds(
    noted: dict[str, dict[str, Any]], smollm2_oracle: Any
) -> None:
    vocab = session().model.vocab
    for question, told in zip(QUESTIONS, likely(noted[NAME]["choose"]), strict=True):
        expected = []
        for choice in question["choices"]:
            begin = vocab.tokenize(question["question"])
            tokens = [*begin, *vocab.tokenize(f" {choice}")]
            rows = log_softmax(smollm2_oracle.logits(tokens, [[]] * len(tokens)))
            expected.append(sum(
                float(rows[i][tokens[i + 1]]) for i in range(len(begin) - 1, len(tokens) - 1)
            ))  # fmt: skip
        np.testing.assert_allclose(told, expected, atol=0.6)
        assert told.index(max(told)) == expected.index(max(expected)) == question["answer"]


def test_steered_it_finds_what_the_session_finds_and_not_what_it_finds_bare(
    noted: dict[str, dict[str, Any]],
) -> None:
    vocab, ask = session().model.vocab, Settings(logprobs=1)
    differences = []
    for question, steered, bare in zip(
        QUESTIONS, likely(noted[PIRATE]["choose"]), likely(noted[NAME]["choose"]), strict=True
    ):
        for choice, x, x_bare in zip(question["choices"], steered, bare, strict=True):
            begin = vocab.tokenize(question["question"])
            scored = session().score([*begin, *vocab.tokenize(f" {choice}")], "pirate", ask)
            own = [one for one in scored.logprobs[len(begin) :] if one is not None]
            assert x == pytest.approx(sum(one.logprob for one in own), abs=0.2)
            differences.append(abs(x - x_bare))
    assert max(differences) > 0.3


@pytest.mark.parametrize("model", [NAME, PIRATE])
def test_it_goes_on_with_texts_as_the_session_does(
    noted: dict[str, dict[str, Any]], model: str
) -> None:
    settings = Settings(Sampling(0), (".",), 8)
    for question, sample in zip(QUESTIONS, noted[model]["go_on"], strict=True):
        said = session().complete(question["question"], model.partition("@")[2] or None, settings)
        assert sample["filtered_resps"] == [said.text]
