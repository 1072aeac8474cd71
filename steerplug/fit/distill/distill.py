"""From a model and its teacher's replies to steering, trained by torch.

Nothing of torch is imported before it is used.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from steerplug.engine.free_memory import give_back
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill.readable import check_installed, check_readable
from steerplug.fit.progress import Report, silent
from steerplug.fit.teacher import Lesson
from steerplug.preset.methods import METHODS, MethodName
from steerplug.steering.value import Scope, Steering

if TYPE_CHECKING:
    from steerplug.fit.distill.student import Student
    from steerplug.fit.distill.training import Schedule


def student_of(name: str, method: MethodName, model: Model, reader: Reader) -> "Student":
    """Return the torch copy of a model that a preset's method trains through.

    Args:
        name: the preset.
        method: its method.
        model: the model; its file is read again, as torch weights.
        reader: of a context on the model, to compare with; what it held is dropped.

    Raises:
        TorchCopyError: a package is missing, torch cannot read this model or computes something
            else, or memory will not do.
    """
    check_installed(name, method)
    check_readable(model)
    from steerplug.fit.distill.agreement import read_student

    return read_student(model, reader)


def distill(
    name: str,
    model: Model,
    student: "Student",
    lessons: Sequence[Lesson],
    layers: Sequence[int],
    *,
    method: MethodName,
    scope: Scope,
    seed: int = 0,
    quick: bool = False,
    replies_of: Callable[[Steering], Sequence[Lesson]] | None = None,
    kept: Checkpoint | None = None,
    report: Report = silent,
) -> Steering:
    """Return the steering that makes the bare chat predict what the prompted one does.

    Args:
        name: whom the steering is named after.
        model: the model.
        student: its torch copy.
        lessons: replies of the prompted model; some are held back to stop training in time.
        layers: the blocks that are steered, trained together.
        method: of those that need torch: gates, or constants.
        scope: which tokens are steered: "response" or "all".
        seed: of the start and the order of the lessons.
        quick: whether the lessons are the few of a quick fit, which take smaller batches.
        replies_of: asks the steered model in the prompted one's place, for a second round, where
            the first leaves something to learn; None: there is none.
        kept: what an earlier fit had done, and where this one is kept.
        report: told how far the work is.

    Raises:
        FitError: training did not converge.
    """
    from steerplug.fit.distill.deltas import Deltas
    from steerplug.fit.distill.exercises import Exercises, prepare, sizes
    from steerplug.fit.distill.training import ENOUGH, FULL, OWN, QUICK, loss, train

    def made() -> Steering:
        return Steering(name, model.n_embd, model.n_layer, deltas.export(), scope)

    first = prepare(student, lessons, scope, report)
    give_back()
    size_of = sizes(student, first, layers)

    def fresh() -> Deltas:
        new = Deltas(size_of, model.n_embd, gated=_is_gated(method), seed=seed)
        new.to(student.device)
        return new

    deltas, exercises = fresh(), Exercises.of(first)
    left = train(student, exercises, deltas, QUICK if quick else FULL, seed, report, kept)
    if (
        replies_of is not None
        and left > ENOUGH * loss(student, exercises.held_back, fresh())
        and (replies := replies_of(made()))
    ):
        exercises += Exercises.of(prepare(student, replies, scope, report))
        train(student, exercises, deltas, OWN, seed, report, kept)
    steering = made()
    if kept is not None:
        kept.keep_trained(steering.layers)
    return steering


def time_training(
    student: "Student", layers: Sequence[int], method: MethodName, *, quick: bool = False
) -> tuple[float, "Sequence[Schedule]"]:
    """Return the seconds that training takes a row, measured on one batch, and its rounds."""
    from steerplug.fit.distill.training import FULL, OWN, QUICK, seconds_a_row

    seconds = seconds_a_row(student, layers, gated=_is_gated(method), quick=quick)
    return seconds, (QUICK,) if quick else (FULL, OWN)


def _is_gated(method: MethodName) -> bool:
    return not METHODS[method].is_constant
