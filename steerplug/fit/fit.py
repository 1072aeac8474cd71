"""From a preset and a model to steering: each method's way, which `preset.methods` lists.

    teacher   ask it, then   psr, const   train
                             chain        fit block by block
                             mean, pca    take the difference of activations, choose where it goes
    contrast                 mean, pca, actadd   the same, of its texts

What comes of it is not measured here; see `evaluate.report`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from steerplug.chat.template import ChatTemplate
from steerplug.engine import requantised
from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.engine import Engine
from steerplug.engine.free_memory import give_back
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.errors import FitError
from steerplug.fit import activations, difference, measure
from steerplug.fit.activations import Activations
from steerplug.fit.chain.chain import Chain, check_memory, fit_chain
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.choose import MAX_DAMAGE, Candidates, Choice, Score, choose
from steerplug.fit.difference import Directions
from steerplug.fit.distill.distill import distill, student_of
from steerplug.fit.effort import Effort, effort
from steerplug.fit.estimated_progress import Plan, Stage, expect
from steerplug.fit.measure import Probe
from steerplug.fit.plan import LOOKED_AT, LOOKING, OPENING, Pace, plan_fit
from steerplug.fit.progress import Report
from steerplug.fit.questions import SWEPT, for_choosing
from steerplug.fit.teacher import Lesson, teach
from steerplug.preset import Preset
from steerplug.preset.methods import METHODS
from steerplug.steering.value import Steering

if TYPE_CHECKING:
    from steerplug.fit.distill.student import Student

_CHAIN_STEP = 2
"""Blocks from one map of `chain` to the next, where a preset says none."""


def fit_teacher(
    preset: Preset,
    engine: Engine,
    reader: Reader,
    kept: Checkpoint,
    report: Report,
    after: Callable[[Pace], Sequence[Stage]] = lambda _: (),
    *,
    quick: bool = False,
) -> Steering:
    """Return what brings the bare chat to the one with the preset's teacher.

    Args:
        preset: one with a teacher.
        engine: the model, to ask.
        reader: of another context on it, to read.
        kept: what an earlier fit had done; new steps are put in.
        report: told how far the work is.
        after: the stages that follow the fit, given the model's pace.
        quick: whether to learn from the few replies of a quick fit.

    Raises:
        TorchCopyError: the method needs a torch copy of the model, and there is none; nothing has
            been asked then.
        FitError: the method cannot be used here, or there is nothing to learn.
    """
    try:
        return _taught(preset, engine, reader, kept, report, after, effort(preset, quick=quick))
    finally:
        give_back()


def fit_contrast(
    preset: Preset, engine: Engine, reader: Reader, report: Report
) -> tuple[Steering, Choice]:
    """Return the difference between the contrast's texts, and the choice whose score is its dial.

    Args:
        preset: one with a contrast.
        engine: the model, to ask.
        reader: of another context on it, to read.
        report: told how far the work is.

    Raises:
        FitError: it garbles this model wherever it is added.
    """
    assert preset.contrast is not None
    pairs, blocks = preset.contrast.pairs, blocks_of(preset, engine.model)
    if preset.fit.method == "actadd":
        directions = difference.actadd(reader, pairs[0], blocks)
    else:
        directions = _directions(preset, activations.of_texts(reader, pairs, blocks, report))
    probed = measure.probes(engine, reader, pairs, report)
    return _chosen(preset, engine.model, directions, _by_dial(reader, probed, report))


def _taught(
    preset: Preset,
    engine: Engine,
    reader: Reader,
    kept: Checkpoint,
    report: Report,
    after: Callable[[Pace], Sequence[Stage]],
    effort: Effort,
) -> Steering:
    """Return what `fit_teacher` does; a torch copy is there before anything is asked."""
    method, student, model = preset.fit.method, None, engine.model
    blocks = blocks_of(preset, model)
    if METHODS[method].needs_torch:
        if kept.deltas.keys() >= set(blocks):
            expect(report, Plan(method, tuple(after(Pace.of(reader))), 0))
            trained = {il: kept.deltas[il] for il in blocks}
            return Steering(preset.name, model.n_embd, model.n_layer, trained, preset.scope)
        report(OPENING, 0, 1)
        student = student_of(preset.name, method, model, reader)
    steered = _steered(preset, model, blocks)
    if method == "chain":
        check_memory(model.n_embd, effort.n_rows, len(steered))
    with requantised.quick(engine, reader) as (quick_engine, quick_reader):
        following = after(Pace.of(reader))
        plan = plan_fit(preset, model, student, Pace.of(quick_reader), steered, kept, effort)
        expect(report, replace(plan, stages=(*plan.stages, *following)))
        return _imitation(preset, model, student, quick_engine, quick_reader, kept, report, effort)


def _imitation(
    preset: Preset,
    model: Model,
    student: "Student | None",
    engine: Engine,
    reader: Reader,
    kept: Checkpoint,
    report: Report,
    effort: Effort,
) -> Steering:
    """Return what brings the bare chat to the prompted one; engine and reader may be of a copy."""
    assert preset.teacher is not None
    fit, blocks = preset.fit, blocks_of(preset, model)
    ask = partial(
        teach, engine, ChatTemplate.of(model), preset.teacher,
        schema=ANY_JSON if preset.format else None, cache=kept.replies, report=report,
    )  # fmt: skip
    lessons = effort.cut(ask(effort.questions, seed=fit.seed, some=effort.some))
    some = lessons[:: -(-len(lessons) // LOOKED_AT)]
    measure.gaps_closed(reader, some, [], report, LOOKING)  # refuses where nothing is to be learned
    if student is not None:

        def replies_of(steering: Steering) -> list[Lesson]:
            return effort.cut(
                ask(effort.questions, seed=fit.seed, some=effort.some, steered=1.0 * steering)
            )

        return distill(
            preset.name, model, student, lessons, blocks,
            method=fit.method, scope=preset.scope, seed=fit.seed, quick=effort.is_quick,
            replies_of=None if effort.is_quick else replies_of, kept=kept, report=report,
        )  # fmt: skip
    if fit.method == "chain":
        chain = Chain(preset.name, model.n_embd, model.n_layer, preset.scope)
        steered = _steered(preset, model, blocks)
        return fit_chain(chain, reader, lessons, steered, deltas=kept.deltas, report=report)
    unused = ask(for_choosing(preset, SWEPT), seed=fit.seed + 1)
    directions = _directions(preset, activations.of_lessons(reader, lessons, blocks, report))
    return _chosen(preset, model, directions, _by_gap(reader, unused, report))[0]


def blocks_of(preset: Preset, model: Model) -> list[int]:
    """Return the blocks worth capturing: the preset's, or all but the first and the last."""
    n_layer = model.n_layer
    if preset.fit.layers == "auto":
        return list(range(1, max(n_layer - 1, 2)))
    beyond = [il for il in preset.fit.layers if il >= n_layer]
    if beyond:
        raise FitError(
            f"`{preset.name}` asks for block {beyond[0]}, but {model.name} has blocks 0 to "
            f"{n_layer - 1}; write `layers: auto` or blocks within that range."
        )
    return list(preset.fit.layers)


def _steered(preset: Preset, model: Model, blocks: list[int]) -> list[int]:
    """Return those of the blocks that a fit steers; `chain` adds the last one."""
    if preset.fit.method != "chain" or preset.fit.layers != "auto":
        return blocks
    return sorted({*blocks[::-_CHAIN_STEP], model.n_layer - 1})


def _directions(preset: Preset, rows: Activations) -> Directions:
    return difference.mean(rows) if preset.fit.method == "mean" else difference.pca(rows)


def _chosen(
    preset: Preset, model: Model, directions: Directions, score: Score
) -> tuple[Steering, Choice]:
    """Return the best of the directions, and how it was chosen."""
    candidates = Candidates(preset.name, model.n_embd, model.n_layer, preset.scope, directions)
    choice = choose(candidates, score, preset.fit.layers, preset.fit.coefficient)
    return candidates.steering(choice.layers, choice.coefficient), choice


def _by_gap(reader: Reader, lessons: Sequence[Lesson], report: Report) -> Score:
    """Prefer what closes most of the gap to the prompted model."""

    def score(steerings: Sequence[Steering]) -> Sequence[float]:
        mixes = [1.0 * steering for steering in steerings]
        return [float(gap) for gap in measure.gaps_closed(reader, lessons, mixes, report)]

    return score


def _by_dial(reader: Reader, probed: Sequence[Probe], report: Report) -> Score:
    """Prefer what makes the best dial, and refuse what garbles."""

    def score(steerings: Sequence[Steering]) -> Sequence[float]:
        scores = []
        for i, steering in enumerate(steerings):
            report("measuring blocks", i, len(steerings))
            dial, damage = measure.dial_and_damage(reader, probed, steering)
            scores.append(dial if damage <= MAX_DAMAGE else float("-inf"))
        return scores

    return score
