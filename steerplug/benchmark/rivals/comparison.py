"""The comparison: lessons, trainings in torch, and what comes of them in llama.cpp."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steerplug.benchmark.rivals import timing
from steerplug.benchmark.rivals.carrier import Bench, Carrier
from steerplug.benchmark.rivals.course import Course, lessons_of
from steerplug.benchmark.rivals.facts import Kind
from steerplug.benchmark.rivals.measuring import PROMPT, Asked, checks_kept, row_figures
from steerplug.benchmark.rivals.timing import Timed
from steerplug.benchmark.rivals.trained_carriers import TrainedCarrier, train_all
from steerplug.benchmark.rivals.tuning import Trainer, Tuned
from steerplug.benchmark.rivals.unfinished import unfinished
from steerplug.benchmark.turns import Timing, take_turns
from steerplug.engine.engine import Engine
from steerplug.engine.free_memory import give_back
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.engine.scope import Prompt
from steerplug.errors import FitError, TorchCopyError
from steerplug.evaluate.estimate import Estimate
from steerplug.evaluate.questions import Questions
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill.agreement import read_student
from steerplug.fit.distill.readable import CURE, check_readable
from steerplug.fit.progress import Report
from steerplug.fit.teacher import Lesson, n_common
from steerplug.preset import Preset
from steerplug.store.store import Store

BARE, ON_DISK = "bare", "prompt on disk"


@dataclass(frozen=True)
class Rival:
    """One carrier of a preset.

    Args:
        name: what it is called.
        kind: of carrier.
        n_bytes: of what is kept of it: a file, or the prompt's text.
        n_cells: that it adds to every chat, on average.
        tuned: how it was trained, if it was.
        figures: gap closed, flips recovered and drift; see `evaluate.fidelity`.
        checks: greedy replies that pass all checks of the preset.
        timings: see `timing`, by task.
        at_half: gap closed at half strength, where its kind has any.
    """

    name: str
    kind: Kind
    n_bytes: int
    n_cells: float
    tuned: Tuned | None
    figures: Mapping[str, Any]
    checks: Estimate
    timings: Mapping[str, Timing]
    at_half: Estimate | None = None


@dataclass(frozen=True)
class Comparison:
    """All carriers of a preset on a model, and on what they were trained and measured."""

    rivals: Sequence[Rival]
    n_lessons: int
    n_questions: int
    n_replies: int


def check(preset: Preset, model: Model) -> None:
    """Refuse what cannot be compared, before anything is asked.

    Raises:
        FitError: the preset has no prompt, the model no plain cells, or no gradients can be
            followed through it.
    """
    if preset.teacher is None:
        raise FitError(
            f"`{preset.name}` is made of a contrast and has no prompt that others could carry; "
            "name a preset with a teacher."
        )
    if model.has_states:
        raise FitError(
            f"{model.path.name} ({model.architecture}) keeps running states or sliding windows, "
            "behind which no trained cells can be put; name another model."
        )
    with _no_other_method():
        check_readable(model)


@contextmanager
def _no_other_method() -> Iterator[None]:
    """Name another cure than a method without torch: rivals have none."""
    try:
        yield
    except TorchCopyError as error:
        raise FitError(str(error).replace(CURE, "name another model")) from None


def compare(
    preset: Preset, engine: Engine, *, store: Store, questions: Questions, quick: bool,
    rounds: int, report: Report,
) -> Comparison:  # fmt: skip
    """Return what each carrier of a preset keeps and costs.

    Args:
        preset: one with a teacher.
        engine: the model, to ask.
        store: where replies and trainings are kept until all is done.
        questions: what is asked; nothing that is trained on.
        quick: whether to learn from the few replies of a quick fit.
        rounds: how often each task is timed.
        report: told how far it is.

    Raises:
        FitError: it cannot be compared, or trained through, on this model.
    """
    check(preset, engine.model)
    with unfinished(store, preset, engine.model) as (replies, trained):
        with TemporaryDirectory(prefix="steerplug-") as folder:
            with reading(engine.model, engine.context.n_ctx) as reader:
                lessons = lessons_of(preset, engine, reader, replies.replies, report, quick=quick)
                asked = Asked.of(preset, engine, questions, replies.replies, report)
                made = _made(preset, engine, reader, lessons, trained, Path(folder), report,
                             quick=quick)  # fmt: skip
            rivals = _measured(preset, engine, asked, made, Path(folder), rounds, report)
        for kept in (replies, trained):
            kept.drop()
    n_questions = len({lesson.bare for lesson in asked.compared})
    return Comparison(rivals, len(lessons), n_questions, len(asked.greedy))


def _made(
    preset: Preset, engine: Engine, reader: Reader, lessons: Sequence[Lesson], kept: Checkpoint,
    folder: Path, report: Report, *, quick: bool,
) -> dict[str, TrainedCarrier]:  # fmt: skip
    """Train all through one torch copy, which is freed then."""
    model = engine.model
    try:
        with _no_other_method():
            student = read_student(model, reader)
        trainer = Trainer(student, preset.fit.seed, quick, kept, report)
        course = Course.of(preset, trainer, lessons)
        n_longest = max(len(lesson.prompted.tokens) for lesson in lessons)
        with _bench(engine, lessons[0], n_longest) as bench:
            return train_all(course, bench, model, folder)
    finally:
        give_back()


@contextmanager
def _bench(engine: Engine, lesson: Lesson, n_longest: int) -> Iterator[Bench]:
    """Give contexts that hold a chat and cells in front of it."""
    first = lesson.bare.tokens[0]
    bench = Bench(engine.model, 2 * n_longest, engine.context.n_threads, first)
    try:
        yield bench
    finally:
        bench.close()


def _measured(
    preset: Preset, engine: Engine, asked: Asked, made: Mapping[str, TrainedCarrier], folder: Path,
    rounds: int, report: Report,
) -> list[Rival]:  # fmt: skip
    """Return all carriers, those that nothing was trained for first."""
    with _bench(engine, asked.greedy[0], asked.n_longest) as bench:
        carriers = {BARE: bench.steered()}
        carriers |= {name: each.carrier(bench) for name, each in made.items()}
        figures = row_figures(carriers[BARE].reader, asked, carriers, report)
        checks = checks_kept(preset, asked, carriers, engine.model.vocab, report)
        timed, n_disk = _timed(asked, carriers, bench, folder)
        tasks = (timing.held, timing.new, timing.decode)
        timings = dict(_task(partial(task, timed), rounds, report) for task in tasks)
    figures[ON_DISK], checks[ON_DISK] = figures[PROMPT], checks[PROMPT]
    at_half = _at_half(engine, asked, made, report)
    n_prompt = float(figures[PROMPT]["prompt_tokens_saved"])
    n_text = _n_text(engine.model, asked.greedy[0])

    def rival(name: str, kind: Kind, n_bytes: int, n_cells: float, tuned: Tuned | None) -> Rival:
        times = {task: ways[name] for task, ways in timings.items()}
        return Rival(name, kind, n_bytes, n_cells, tuned, figures[name], checks[name], times,
                     at_half.get(name))  # fmt: skip

    return [
        rival(BARE, "none", 0, 0, None),
        rival(PROMPT, "prompt", n_text, n_prompt, None),
        rival(ON_DISK, "prompt", n_disk, n_prompt, None),
        *(rival(name, each.kind, each.n_bytes, each.n_cells, each.tuned)
          for name, each in made.items()),
    ]  # fmt: skip


def _task(task: Any, rounds: int, report: Report) -> tuple[str, dict[str, Timing]]:
    done, ways = take_turns(task(), rounds, report)
    return done.name, ways


def _timed(
    asked: Asked, carriers: Mapping[str, Carrier], bench: Bench, folder: Path
) -> tuple[dict[str, Timed], int]:
    """Return what is timed, and the bytes of the prompt's cells on disk."""
    first, second = asked.greedy[:2]
    path = folder / "prompt.bin"
    n = n_common([lesson.prompted.tokens for lesson in asked.greedy])
    n_bytes = bench.written(path, first.prompted.tokens[:n])

    def behind(prompt: Prompt) -> Prompt:
        return Prompt((prompt.tokens[0], *prompt.tokens[n:]))

    timed = {BARE: Timed(carriers[BARE], first.bare, second.bare)}
    timed[PROMPT] = Timed(carriers[BARE], first.prompted, second.prompted)
    timed[ON_DISK] = Timed(bench.restored(path), behind(first.prompted), behind(second.prompted))
    timed |= {name: Timed(each, first.bare, second.bare) for name, each in carriers.items()}
    return timed, n_bytes


def _n_text(model: Model, lesson: Lesson) -> int:
    """Return the bytes of text that the prompted chat has beyond the bare one."""
    prompted, bare = (
        sum(len(model.vocab.piece(token)) for token in prompt.tokens)
        for prompt in (lesson.prompted, lesson.bare)
    )
    return prompted - bare


def _at_half(
    engine: Engine, asked: Asked, made: Mapping[str, TrainedCarrier], report: Report
) -> dict[str, Estimate]:
    """Return the gap that is closed at half strength by what has any, over greedy replies."""
    half = asked.compared[: len(asked.compared) // 2]
    with _bench(engine, asked.greedy[0], asked.n_longest) as bench:
        carriers = {name: each.carrier(bench, 0.5) for name, each in made.items()
                   if each.has_strength}  # fmt: skip
        some = replace(asked, compared=half, aside=())
        figures = row_figures(bench.steered().reader, some, carriers, report)
    return {name: figures[name]["gap_closed"] for name in carriers}
