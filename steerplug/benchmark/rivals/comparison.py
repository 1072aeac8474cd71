"""The comparison: lessons, trainings in torch, and what comes of them in llama.cpp."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steerplug.benchmark.rivals import timing
from steerplug.benchmark.rivals.carried import Bench, Carried
from steerplug.benchmark.rivals.cells import Fronted, trained_state
from steerplug.benchmark.rivals.course import Course
from steerplug.benchmark.rivals.facts import Kind
from steerplug.benchmark.rivals.kv_prefix import KvPrefix
from steerplug.benchmark.rivals.lora import Lora
from steerplug.benchmark.rivals.measuring import PROMPT, Asked, checks_kept, row_figures
from steerplug.benchmark.rivals.soft_prompt import SoftPrompt
from steerplug.benchmark.rivals.timing import Timed
from steerplug.benchmark.rivals.tuning import Trainer, Tuned
from steerplug.benchmark.turns import Timing, take_turns
from steerplug.chat.template import ChatTemplate
from steerplug.engine import requantised
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.engine.scope import Prompt
from steerplug.errors import FitError, TorchCopyError
from steerplug.evaluate.estimate import Estimate
from steerplug.evaluate.questions import Questions
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill import give_back
from steerplug.fit.distill.agreement import read_student
from steerplug.fit.distill.linear import linear_parts
from steerplug.fit.distill.readable import CURE
from steerplug.fit.effort import effort
from steerplug.fit.progress import Report
from steerplug.fit.teacher import Lesson, n_common, teach
from steerplug.preset import Preset
from steerplug.preset.methods import MethodName
from steerplug.steering.file import write_steering
from steerplug.steering.identity import Identity, chat_template_hash
from steerplug.steering.terms import place
from steerplug.steering.value import Steering
from steerplug.store.store import Store
from steerplug.version import __version__

BARE, ON_DISK = "bare", "prompt, cells on disk"
SOFT_PROMPTS, PREFIX, RANKS = (1, 8), 8, (1, 8)
"""Embeddings, cells, and ranks."""


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


@dataclass(frozen=True)
class _Made:
    """A carrier that is there: its file or numbers, and how to put it in place."""

    kind: Kind
    n_bytes: int
    n_cells: int
    tuned: Tuned
    steering: Steering | None = None
    file: Path | None = None
    embeddings: Any = None

    def carried(self, bench: Bench, strength: float = 1.0) -> Carried:
        """Put it in place."""
        if self.steering is not None:
            return bench.steered(strength * self.steering)
        if self.embeddings is not None:
            return bench.soft(self.embeddings)
        assert self.file is not None
        if self.kind == "LoRA":
            return bench.adapted(self.file, strength)
        return bench.restored(self.file)


def check(preset: Preset, model: Model) -> None:
    """Refuse what cannot be compared.

    Raises:
        FitError: the preset has no prompt, or the model no plain cells.
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


def compare(
    preset: Preset, engine: Engine, *, store: Store, questions: Questions, quick: bool,
    rounds: int, report: Report,
) -> Comparison:  # fmt: skip
    """Return what each carrier of a preset keeps and costs.

    Args:
        preset: one with a teacher.
        engine: the model, to ask.
        store: where trainings are kept until all is done.
        questions: what is asked; nothing that is trained on.
        quick: whether to learn from the few replies of a quick fit.
        rounds: how often each task is timed.
        report: told how far it is.

    Raises:
        FitError: it cannot be compared, or trained through, on this model.
    """
    check(preset, engine.model)
    replies, trained = (_kept(store, preset, engine.model, what) for what in ("said", "trained"))
    with TemporaryDirectory(prefix="steerplug-") as folder:
        with reading(engine.model, engine.context.n_ctx) as cells:
            lessons = _lessons(preset, engine, cells, replies, report, quick=quick)
            asked = Asked.of(preset, engine, questions, replies.replies, report)
            made = _made(preset, engine, cells, lessons, trained, Path(folder), report, quick=quick)
        rivals = _measured(preset, engine, asked, made, Path(folder), rounds, report)
    for kept in (replies, trained):
        kept.drop()
    n_questions = len({lesson.bare for lesson in asked.compared})
    return Comparison(rivals, len(lessons), n_questions, len(asked.greedy))


def _kept(store: Store, preset: Preset, model: Model, what: str) -> Checkpoint:
    """Return what an interrupted comparison had done, and where this one is kept."""
    name = f"{preset.name}.rivals-{what}"
    kept = Checkpoint(store.folder / place(name, model.fingerprint, preset.digest))
    kept.load()
    return kept


def _lessons(
    preset: Preset, engine: Engine, cells: Reader, kept: Checkpoint, report: Report, *, quick: bool
) -> list[Lesson]:
    """Return the lessons that `psr` has, quick or not."""
    assert preset.teacher is not None
    given = effort(_by_psr(preset), quick=quick)
    with requantised.quick(engine, cells) as (quickly, _):
        return given.cut(teach(
            quickly, ChatTemplate.of(engine.model), preset.teacher, given.questions,
            seed=preset.fit.seed, some=given.some, known=kept.replies, report=report,
        ))  # fmt: skip


def _by_psr(preset: Preset) -> Preset:
    fit = preset.fit.model_copy(update={"method": "psr"})
    return preset.model_copy(update={"fit": fit})


def _made(
    preset: Preset, engine: Engine, cells: Reader, lessons: Sequence[Lesson], kept: Checkpoint,
    folder: Path, report: Report, *, quick: bool,
) -> dict[str, _Made]:  # fmt: skip
    """Return all that is trained, each exported for llama.cpp."""
    model = engine.model
    try:
        student = read_student(model, cells)
    except TorchCopyError as error:
        raise FitError(str(error).replace(CURE, "name another model")) from None
    parts = linear_parts(student.module, model)
    trainer = Trainer(student, preset.fit.seed, quick, kept, report)
    course = Course.of(preset, trainer, lessons, parts)
    made: dict[str, _Made] = {}
    methods: tuple[MethodName, ...] = ("psr", "const")
    for name in methods:
        tuned, steering = course.steering(name, range(1, model.n_layer - 1), gated=name == "psr")
        n_bytes = _written(folder / f"{name}.gguf", steering, preset, model, name)
        made[name] = _Made("steering", n_bytes, 0, tuned, steering)
    for n in SOFT_PROMPTS:
        tuned = course.soft_prompt(f"soft prompt of {n}", n)
        assert isinstance(tuned.trained, SoftPrompt)
        embeddings = tuned.trained.export()
        made[f"soft prompt of {n}"] = _Made(
            "soft prompt", embeddings.nbytes, n, tuned, embeddings=embeddings
        )
    with _bench(engine, lessons[0], max(len(x.prompted.tokens) for x in lessons)) as bench:
        for n in (PREFIX, _as_heavy(bench, course, folder, made["psr"].n_bytes)):
            name, path = f"K/V prefix of {n}", folder / f"prefix-{n}.bin"
            tuned = course.kv_prefix(name, n)
            n_bytes = _put(tuned, course, bench, path, n)
            made[name] = _Made("K/V prefix", n_bytes, n, tuned, file=path)
    for rank in RANKS:
        name, path = f"LoRA of rank {rank}", folder / f"lora-{rank}.gguf"
        tuned = course.lora(name, rank)
        assert isinstance(tuned.trained, Lora)
        tuned.trained.write(path, model.architecture)
        made[name] = _Made("LoRA", path.stat().st_size, 0, tuned, file=path)
    del student, trainer, course
    give_back()
    return made


def _written(
    path: Path, steering: Steering, preset: Preset, model: Model, method: MethodName
) -> int:
    """Write steering as a build does; return its bytes."""
    identity = Identity(
        preset.name, preset.version, preset.digest, model.fingerprint, model.architecture,
        chat_template_hash(model.chat_template), method, preset.fit.seed, __version__,
    )  # fmt: skip
    write_steering(path, steering, identity)
    return path.stat().st_size


def _as_heavy(bench: Bench, course: Course, folder: Path, n_bytes: int) -> int:
    """Return how many cells a file of so many bytes holds behind the first token's."""
    one, two = (bench.written(folder / "cells.bin", course.start(n)) for n in (0, 1))
    most = len(course.lessons[0].prompted.tokens) - 1
    return max(min((n_bytes - one) // (two - one), most), 1)


def _put(tuned: Tuned, course: Course, bench: Bench, path: Path, n: int) -> int:
    """Write a trained prefix as cells of llama.cpp; return its bytes."""
    prefix, student = tuned.trained, course.trainer.student
    assert isinstance(prefix, KvPrefix)
    before = KvPrefix(student, course.start(n)).to(student.device).export(course.parts)
    after = prefix.export(course.parts)

    def put(context: Fronted) -> None:
        context.put_state(trained_state(context.state(), before, after))

    return bench.written(path, course.start(n), put)


@contextmanager
def _bench(engine: Engine, lesson: Lesson, n_longest: int) -> Iterator[Bench]:
    first = lesson.bare.tokens[0]
    bench = Bench(engine.model, 2 * n_longest, engine.context.n_threads, first)
    try:
        yield bench
    finally:
        bench.close()


def _measured(
    preset: Preset, engine: Engine, asked: Asked, made: Mapping[str, _Made], folder: Path,
    rounds: int, report: Report,
) -> list[Rival]:  # fmt: skip
    """Return all carriers, those that nothing was trained for first."""
    vocab = engine.model.vocab
    with _bench(engine, asked.greedy[0], asked.n_longest) as bench:
        carried = {BARE: bench.steered()}
        carried |= {name: each.carried(bench) for name, each in made.items()}
        cells = carried[BARE].cells
        figures = row_figures(cells, asked, carried, report)
        checks = checks_kept(preset, asked, carried, vocab, report)
        timed, n_disk = _timed(asked, carried, bench, folder)
        tasks = [partial(task, timed) for task in (timing.held, timing.new, timing.decode)]
        times = {task.name: ways for task, ways in (take_turns(t(), rounds, report) for t in tasks)}
    figures[ON_DISK], checks[ON_DISK] = figures[PROMPT], checks[PROMPT]
    at_half = _at_half(engine, asked, made, report)
    n_prompt = float(figures[PROMPT]["prompt_tokens_saved"])
    n_text = _n_text(engine.model, asked.greedy[0])
    untrained: list[tuple[str, Kind, int, float]] = [
        (BARE, "none", 0, 0.0), (PROMPT, "prompt", n_text, n_prompt),
        (ON_DISK, "prompt", n_disk, n_prompt),
    ]  # fmt: skip
    every = [
        *((*each, None) for each in untrained),
        *((name, x.kind, x.n_bytes, float(x.n_cells), x.tuned) for name, x in made.items()),
    ]
    return [
        Rival(
            name, kind, n_bytes, n_cells, tuned, figures[name], checks[name],
            {task: ways[name] for task, ways in times.items()}, at_half.get(name),
        )
        for name, kind, n_bytes, n_cells, tuned in every
    ]  # fmt: skip


def _timed(
    asked: Asked, carried: Mapping[str, Carried], bench: Bench, folder: Path
) -> tuple[dict[str, Timed], int]:
    """Return what is timed, and the bytes of the prompt's cells on disk."""
    one, other = asked.greedy[0], asked.greedy[1]
    path = folder / "prompt.bin"
    n = n_common([lesson.prompted.tokens for lesson in asked.greedy])
    n_bytes = bench.written(path, one.prompted.tokens[:n])
    first = one.bare.tokens[0]

    def behind(prompt: Prompt) -> Prompt:
        return Prompt((first, *prompt.tokens[n:]))

    timed = {BARE: Timed(carried[BARE], one.bare, other.bare)}
    timed[PROMPT] = Timed(carried[BARE], one.prompted, other.prompted)
    on_disk = bench.restored(path)
    timed[ON_DISK] = Timed(on_disk, behind(one.prompted), behind(other.prompted))
    timed |= {name: Timed(each, one.bare, other.bare) for name, each in carried.items()}
    return timed, n_bytes


def _n_text(model: Model, lesson: Lesson) -> int:
    """Return the bytes of text that the prompted chat has beyond the bare one."""
    prompted, bare = (
        sum(len(model.vocab.piece(token)) for token in prompt.tokens)
        for prompt in (lesson.prompted, lesson.bare)
    )
    return prompted - bare


def _at_half(
    engine: Engine, asked: Asked, made: Mapping[str, _Made], report: Report
) -> dict[str, Estimate]:
    """Return the gap that is closed at half strength by what has any."""
    dials = {name: each for name, each in made.items() if each.kind in ("steering", "LoRA")}
    some = replace(asked, compared=asked.compared[: len(asked.compared) // 2], aside=())
    with _bench(engine, asked.greedy[0], asked.n_longest) as bench:
        carried = {name: each.carried(bench, 0.5) for name, each in dials.items()}
        figures = row_figures(bench.steered().cells, some, carried, report)
    return {name: figures[name]["gap_closed"] for name in carried}
