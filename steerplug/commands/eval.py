"""`steerplug eval`: the fidelity report of a preset or a mix, on questions it never saw."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerplug.commands.building import Building
from steerplug.commands.completion import mixes, preset_names
from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import compiled, opened
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import print_json, say
from steerplug.commands.proofs import Asked, prove, told
from steerplug.commands.show_fidelity import show
from steerplug.commands.subject import Subject, subject_of
from steerplug.engine.loading import Loading
from steerplug.errors import RequestError, SteeringError

if TYPE_CHECKING:
    from steerplug.build import Built
    from steerplug.evaluate.questions import Questions
    from steerplug.evaluate.report import Measured
    from steerplug.fit.estimated_progress import EstimatedProgress
    from steerplug.preset import Preset
    from steerplug.session import Session
    from steerplug.session.receipt import AppliedPreset
    from steerplug.steering.value import Mix

Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", show_default=False,
        help="Your own questions: one a line, or a JSON list.",
    ),
]  # fmt: skip
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", show_default=False, help="Draw the report as .svg, .png or .pdf.",
    ),
]  # fmt: skip


@with_loading
def eval(
    preset: Annotated[
        str,
        typer.Argument(
            metavar="PRESET",
            help="A preset's name or path, or a mix of them.",
            autocompletion=mixes,
        ),
    ],
    model: Model = MODEL,
    prompts: Prompts = None,
    plot: Plot = None,
    strength: Annotated[
        float | None, typer.Option(help="Instead of the preset's default.", show_default=False)
    ] = None,
    turns: Annotated[
        bool, typer.Option("--turns", help="Instead: over ten turns, and switched in the middle.")
    ] = False,
    chats: Annotated[
        int | None,
        typer.Option(
            min=1, max=8, show_default=False, help="How many chats --turns has; by default 8.",
        ),
    ] = None,
    overrides: Annotated[
        bool, typer.Option("--overrides", help="Instead: under 50 texts that would override it.")
    ] = False,
    orders: Annotated[
        bool,
        typer.Option("--orders", help="Instead: a sum, beside its prompts in every order."),
    ] = False,
    joint: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False,
            autocompletion=preset_names,
            help="What `build --as NAME` made of a sum, to be compared by --orders.",
        ),
    ] = None,
    as_json: Json = False,
    *,
    loading: Loading,
) -> None:
    """Measure how well a preset stands in for its prompt."""
    instead = {"turns": turns, "overrides": overrides, "orders": orders}
    if any(instead.values()) or chats is not None or joint is not None:
        asked = _asked(instead, {"prompts": prompts, "plot": plot}, chats, joint)
        prove(asked, preset, strength, model, loading, as_json)
        return
    from steerplug.evaluate.questions import read_prompts, reported_on
    from steerplug.files.picture import check_picture

    begin = time.perf_counter()
    subject = subject_of(preset, strength)
    questions = reported_on(subject.preset, read_prompts(prompts) if prompts else ())
    if plot:
        check_picture(plot)
    with opened(model, loading) as session:
        steered = compiled(session, subject.words, model)
        measured = _measured(session, subject, steered.mix, questions)
        applied = steered.ingredients
        name, fingerprint = session.model.path.stem, session.model.fingerprint
        title = f"{', '.join(map(_in_words, applied))} on {name}"
        is_kept = prompts is None and _remember(session, subject, measured, applied)
        if plot:
            _draw(session, subject, steered.mix, questions, measured, plot, title)
    if as_json:
        print_json({
            "preset": preset, "model": model, "fingerprint": fingerprint,
            "steering": told(applied), **measured.as_dict(),
            "picture": str(plot) if plot else None,
            "seconds": round(time.perf_counter() - begin, 3),
        })  # fmt: skip
        return
    show(title, measured.fidelity, measured.sweep, measured.chosen)
    if is_kept:
        say("Kept as what was measured here.")
    if plot:
        say(f"Drawn in {plot}.")


def _asked(
    instead: Mapping[str, bool], beside: Mapping[str, Any], chats: int | None, joint: str | None
) -> Asked:
    """Return which measure is asked for instead of the report; it must be one, and alone."""
    asked = [name for name, is_asked in instead.items() if is_asked]
    for option, value, whose in (("chats", chats, "turns"), ("joint", joint, "orders")):
        if value is not None and whose not in asked:
            raise RequestError(f"--{option} {value} only works with --{whose}; leave it out.")
    if others := [*asked[:-1], *(name for name, value in beside.items() if value)]:
        raise RequestError(
            f"--{asked[-1]} is a measure of its own, with its own questions and no picture; leave "
            f"out {' and '.join(f'--{name}' for name in others)}."
        )
    return Asked(asked[0], chats, joint)


def _in_words(part: "AppliedPreset") -> str:
    return f"{part.name}{' (quick)' if part.quick else ''} at {part.strength:g}"


def measured_alone(
    session: "Session", preset: "Preset", report: "EstimatedProgress"
) -> dict[str, Any]:
    """Return what is measured of a preset at its default strength.

    `file` is its compiled file in the store's folder, or empty if it came with the preset.

    Raises:
        SteeringError: it is not compiled for this model.
    """
    from steerplug.evaluate.questions import reported_on

    built = session.compiled(preset)
    if built is None:
        raise SteeringError(
            f"`{preset.name}` is not compiled for {session.model.path.name}; run `steerplug farm "
            f"build {preset.name} -m MODEL` first."
        )
    mix, folder = built.default_strength(preset) * built.steering, session.store.folder
    measured = _measure(session, preset, 1.0 * built.steering, mix, reported_on(preset), report)
    return {
        "fingerprint": session.model.fingerprint,
        "quick": built.is_quick,
        "fidelity": _marked(measured, built, built.default_strength(preset)),
        "digest": built.steering.digest,
        "file": str(built.path.relative_to(folder)) if folder in built.path.parents else "",
    }


def _measured(
    session: "Session", subject: Subject, mix: "Mix", questions: "Questions"
) -> "Measured":
    """Return what was measured."""
    what = f"Measuring {subject.words} on {len(questions.compared)} questions."
    unit = _unit(session, subject, mix)
    with Building(what) as report:
        return _measure(session, subject.preset, unit, mix, questions, report)


def _measure(
    session: "Session", preset: "Preset", unit: "Mix", mix: "Mix", questions: "Questions",
    report: "EstimatedProgress",
) -> "Measured":  # fmt: skip
    from steerplug.engine.reader import reading
    from steerplug.evaluate.plan import plan_report
    from steerplug.evaluate.report import measure_steering
    from steerplug.fit.estimated_progress import Plan
    from steerplug.fit.plan import Pace

    engine = session.engine
    with reading(session.model, engine.context.n_ctx) as reader:
        if preset.teacher is not None:
            stages = plan_report(preset, session.model, questions, Pace.of(reader))
            report.expect(Plan("", tuple(stages), 0))
        return measure_steering(preset, unit, engine, reader, questions, mix=mix, report=report)


def _marked(measured: "Measured", built: "Built", strength: float) -> dict[str, Any]:
    """Return what was measured, with the strength, and whether it was of a quick fit."""
    mark = {"quick": True} if built.is_quick else {}
    return {**measured.as_dict(), "strength": strength, **mark}


def _draw(
    session: "Session", subject: Subject, mix: "Mix", questions: "Questions",
    measured: "Measured", path: Path, title: str,
) -> None:  # fmt: skip
    """Draw what was measured, and along one reply how hard it was steered."""
    from steerplug.evaluate.picture import draw
    from steerplug.evaluate.trace import trace

    traced = trace(subject.preset, mix, session.engine, questions.compared[0])
    draw(measured.fidelity, measured.sweep, measured.chosen, traced, path, title=title)


def _remember(
    session: "Session", subject: Subject, measured: "Measured",
    applied: "tuple[AppliedPreset, ...]",
) -> bool:  # fmt: skip
    """Keep what was measured of one preset at its default strength, and say whether it was that.

    A pack's author only claims, and a file for another quantisation says nothing of this one.
    """
    from steerplug.store.measurements import remember

    built = session.compiled(subject.preset) if subject.alone else None
    strength = applied[0].strength
    if built is None or strength != built.default_strength(subject.preset):
        return False
    remember(built.path, session.model.fingerprint, _marked(measured, built, strength))
    return True


def _unit(session: "Session", subject: Subject, mix: "Mix") -> "Mix":
    """Return what a sweep multiplies: a preset at strength 1, or a mix as it was asked for."""
    built = session.compiled(subject.preset) if subject.alone else None
    return 1.0 * built.steering if built else mix
