"""Checkable instructions as presets: with the prompt, with steering, with both, with neither.

A file of tasks has one JSON object a line, in IFEval's terms: `prompt` with one instruction in its
own words, the same as `prompt_without_instruction`, and its `instruction_id_list` and `kwargs`.
Those of nine fixed instructions are taken (`instructions.yaml`); for each of these a preset is
built from one text, so no task's own words are what its preset was fitted on.

    none      the prompt without its instruction
    prompt    the prompt as it is
    steering  the prompt without its instruction, steered
    both      the prompt as it is, steered

`kept` is the share of greedy replies that the instruction's checker accepts, `gain` that of both
less that of the prompt over the same tasks. `gap_closed`: of what the instruction in the task's own
words changes along the prompted reply, the share that steering makes up for (see `dialogue`): how
a preset carries over to other wordings.

The checkers are those of the package if-verifiable, which follow IFEval's own.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from steerplug.chat.template import ChatTemplate
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import reading
from steerplug.errors import RequestError, unreadable
from steerplug.evaluate.arms import Arm
from steerplug.evaluate.dialogue import Dialogue, converse, distances, longest
from steerplug.evaluate.estimate import Estimate, as_json, ratio, share, share_change
from steerplug.evaluate.journal import figure_journal, reply_journal
from steerplug.fit.progress import Report, at_once, silent, steps
from steerplug.preset import SCHEMA, Preset
from steerplug.preset.from_prompt import FIT
from steerplug.steering.value import Mix

REPLY_TOKENS, COMPARED_TOKENS = 256, 64
NONE, PROMPT, STEERING, BOTH = "none", "prompt", "steering", "both"
MAX_BYTES = 5_000_000


@dataclass(frozen=True)
class Task:
    """One prompt with its instruction; `name` is that of the instruction's preset."""

    name: str
    prompt: str
    bare: str
    id: str
    kwargs: Mapping[str, Any]


def read_tasks(path: Path) -> list[Task]:
    """Return the tasks of a file whose instruction is one of the nine.

    Raises:
        RequestError: the file cannot be read, is larger than 5 MB, is no such file, or has no such
            task.
    """
    cure = "name a file of one JSON object a line"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
            size = max(len(content), os.fstat(file.fileno()).st_size)
    except (OSError, ValueError) as error:
        raise RequestError(f"the tasks {path} {unreadable(error, cure)}") from None
    if size > MAX_BYTES:
        raise RequestError(
            f"the tasks {path} take {size:,} bytes, more than {MAX_BYTES:,}; choose some of them."
        )
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise RequestError(f"the tasks {path} {unreadable(error, cure)}") from None
    tasks = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip() and (task := _task(json.loads(line))):
                tasks.append(task)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RequestError(
                f"{path}, line {number} is no task ({error!r:.80}); each line is a JSON object "
                "with prompt, prompt_without_instruction, instruction_id_list and kwargs."
            ) from None
    if not tasks:
        raise RequestError(
            f"no task of {path} has one of the instructions {', '.join(_known())}; name a file "
            "that has."
        )
    return tasks


def _task(row: Mapping[str, Any]) -> Task | None:
    (kind,), (kwargs,) = row["instruction_id_list"], row["kwargs"]
    arguments = {key: value for key, value in kwargs.items() if value is not None}
    for name, instruction in _known().items():
        if instruction["id"] == kind and instruction.get("with", {}) == arguments:
            bare = _text(row, "prompt_without_instruction")
            return Task(name, _text(row, "prompt"), bare, kind, arguments)
    return None


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise TypeError(f"its {name} is no text")
    return str(row[name])


def preset_of(name: str) -> Preset:
    """Return the preset of an instruction."""
    teacher = {"system": _known()[name]["system"]}
    data = {"schema": SCHEMA, "name": name, "teacher": teacher, "fit": FIT}
    return Preset.from_mapping(data, f"the instruction `{name}`")


@cache
def _known() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_bytes())
    return read


def check_checkers() -> None:
    """Refuse to begin what could not be judged in the end.

    Raises:
        RequestError: the package of the checkers is not installed.
    """
    try:
        import if_verifiable  # noqa: F401
        import langdetect
    except ImportError:
        raise RequestError(
            "the checkers of instructions are not installed; `pip install if-verifiable`."
        ) from None
    langdetect.DetectorFactory.seed = 0  # it draws, and would judge otherwise each time


def passes(task: Task, reply: str) -> bool:
    """Say whether the checker of a task's instruction accepts a reply; none accepts nothing."""
    from if_verifiable import IFEvalSample, evaluate_output_for_sample

    sample = IFEvalSample(0, task.prompt, [task.id], [dict(task.kwargs)])
    _, scores = evaluate_output_for_sample("ifeval", sample, reply)
    return bool(scores.binary_strict == 1.0)


def measure_instructions(
    tasks: Sequence[Task], mixes: Mapping[str, Mix], model: Model, report: Report = silent
) -> dict[str, Any]:
    """Return how instructions are kept, as JSON values; what is kept is not done again.

    Args:
        tasks: what is asked.
        mixes: the steering of each instruction, by its name.
        model: the model.
        report: told how far the work is.

    Raises:
        ModelError: the model has no chat template, or no room for such a chat.
        StoreError: what is done cannot be kept.
    """
    template, plain = ChatTemplate.of(model), Arm()
    arms = {
        NONE: [(task.bare, plain) for task in tasks],
        PROMPT: [(task.prompt, plain) for task in tasks],
        STEERING: [(task.bare, Arm(mix=mixes[task.name])) for task in tasks],
        BOTH: [(task.prompt, Arm(mix=mixes[task.name])) for task in tasks],
    }
    n_cells = longest(template, [(task.prompt,) for task in tasks], [plain], REPLY_TOKENS)
    with closing(Engine(model, n_ctx=max(n_cells, model.loading.n_ctx))) as engine:
        talk = partial(converse, engine, template, n_tokens=REPLY_TOKENS,
                       cache=reply_journal(model.fingerprint))  # fmt: skip
        had = {
            name: at_once(lambda each: talk((each[0],), [each[1]]), some, f"asking: {name}", report)
            for name, some in arms.items()
        }
    kept = {
        name: [passes(task, chat.replies[0].text) for task, chat in zip(tasks, some, strict=True)]
        for name, some in had.items()
    }
    gaps, figures = [], figure_journal(model.fingerprint)
    with reading(model, n_cells) as reader:
        for task, chat in steps(list(zip(tasks, had[PROMPT], strict=True)), "reading", report):
            own = _first(chat)
            bare = Dialogue((task.bare,), own.replies)
            others = {NONE: (bare, plain), STEERING: (bare, Arm(mix=mixes[task.name]))}
            apart = distances(reader, template, (own, plain), others, range(1), figures)
            gaps.append((apart[NONE][0], apart[STEERING][0]))
    names = list(dict.fromkeys(task.name for task in tasks))

    def of(*wanted: str) -> dict[str, Any]:
        some = [i for i, task in enumerate(tasks) if task.name in wanted]
        return {"n": len(some), **_figures({name: [those[i] for i in some] for name, those in
                                            kept.items()}, [gaps[i] for i in some])}  # fmt: skip

    return as_json({
        "n_tasks": len(tasks), "reply_tokens": REPLY_TOKENS,
        "by_instruction": {**{name: of(name) for name in names}, "all": of(*names)},
    })  # fmt: skip


def _first(chat: Dialogue) -> Dialogue:
    """Return a chat with the beginning of its reply alone."""
    reply = chat.replies[0]
    return Dialogue(chat.questions, (reply._replace(tokens=reply.tokens[:COMPARED_TOKENS]),))


def _figures(
    kept: Mapping[str, Sequence[bool]], gaps: Sequence[tuple[float, float]]
) -> dict[str, Estimate | dict[str, Estimate]]:
    gap, left = np.array(gaps).T
    return {
        "kept": {name: share(those) for name, those in kept.items()},
        "gain": share_change(kept[BOTH], kept[PROMPT]),
        "gap_closed": ratio(gap - left, gap),
    }
