"""`psr` and `const`: a teacher distilled by gradient, all blocks together (extra `fit`).

Nothing here is imported before it is used: a preset's user needs no torch, only its author does.

    weights      the GGUF's tensors, dequantised, in torch
    student      what bare and prompted chats compute with them, watched and steered
    deltas       what is trained: gates or constants at each block
    training     the loop: mean KL(prompted || steered) over boundary and reply rows
"""

import ctypes
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

from steerplug.engine.model import Model
from steerplug.errors import FitError
from steerplug.fit.progress import Report, silent
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import Delta, Scope, Steering

Method = Literal["psr", "const"]
Objective = Literal["kl", "mse"]

_NEEDED = ("torch", "transformers", "psutil")


def check_installed(name: str, method: str) -> None:
    """Refuse a preset whose method needs what is not installed.

    Raises:
        FitError: a package of the extra `fit` is missing.
    """
    missing = [package for package in _NEEDED if find_spec(package) is None]
    if missing:
        raise FitError(
            f"`{name}` asks for method `{method}`, which needs {' and '.join(missing)}; "
            "run `pip install 'steerplug[fit]'`, or write `method: chain`, which does without."
        )


def distill(
    name: str,
    model: Model,
    lessons: Sequence[Lesson],
    layers: Sequence[int],
    *,
    method: Method,
    scope: Scope,
    seed: int = 0,
    objective: Objective = "kl",
    report: Report = silent,
) -> Steering:
    """Return the steering that makes the bare chat predict what the prompted one does.

    Args:
        name: whom the steering is named after.
        model: the model; its file is read again, as torch weights.
        lessons: replies of the prompted model; some are held back to stop training in time.
        layers: the blocks that are steered, trained together.
        method: "psr" trains gates, "const" constants.
        scope: which tokens are steered: "response" or "all".
        seed: of the start and the order of the lessons.
        objective: "kl" compares what is predicted, "mse" the activations at the steered blocks.
        report: told how far the work is.

    Raises:
        FitError: a package is missing, torch cannot read this model, or memory will not do.
    """
    check_installed(name, method)
    try:
        deltas = _trained(model, lessons, layers, method, scope, seed, objective, report)
    finally:
        _give_back()
    return Steering(name, model.n_embd, model.n_layer, deltas, scope)


def _trained(
    model: Model,
    lessons: Sequence[Lesson],
    layers: Sequence[int],
    method: Method,
    scope: Scope,
    seed: int,
    objective: Objective,
    report: Report,
) -> dict[int, Delta]:
    from steerplug.fit.distill.deltas import Deltas
    from steerplug.fit.distill.student import Student
    from steerplug.fit.distill.training import prepare, sizes, train

    student = Student.of(model)
    exercises = prepare(student, lessons, scope, report)
    deltas = Deltas(
        sizes(student, exercises, layers), model.n_embd, gated=method == "psr", seed=seed
    ).to(student.device)
    train(student, exercises, deltas, objective, seed, report)
    trained: dict[int, Delta] = deltas.export()
    return trained


def _give_back() -> None:
    """Hand freed memory back to the system; glibc would keep a gigabyte of it after each fit."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
