"""The report on a preset's steering, for `build` and `eval` alike: fidelity, and its strengths.

A sweep over strengths, on questions of its own, tells which serves best; fidelity is measured at
that one unless the caller says another, on questions that neither fitted nor chose anything.
"""

from dataclasses import dataclass
from typing import Any

from steerplug.engine.engine import Engine
from steerplug.engine.reader import Reader
from steerplug.evaluate.fidelity import Fidelity, measure_fidelity
from steerplug.evaluate.questions import Questions
from steerplug.evaluate.sweep import Chosen, Sweep, as_dict, choose_strength, lessons_of, sweep
from steerplug.fit.progress import Report, silent
from steerplug.fit.questions import SWEPT, for_choosing
from steerplug.fit.reply_cache import ReplyCache
from steerplug.preset import Preset
from steerplug.steering.value import Mix, Steering


@dataclass(frozen=True)
class Measured:
    """What was measured: fidelity, a sweep over strengths, and what was chosen by it."""

    fidelity: Fidelity
    sweep: Sweep
    chosen: Chosen

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as they are kept and printed."""
        return {**self.fidelity.as_dict(), "sweep": as_dict(self.sweep, self.chosen)}


def measure_steering(
    preset: Preset,
    unit: Steering | Mix,
    engine: Engine,
    reader: Reader,
    questions: Questions,
    *,
    mix: Mix | None = None,
    cache: ReplyCache | None = None,
    report: Report = silent,
) -> Measured:
    """Return the report on what steers like a preset.

    Args:
        preset: whose prompt it is compared with.
        unit: what a sweep multiplies: the steering at strength 1.
        engine: the model.
        reader: of a context on it.
        questions: what is asked.
        mix: at what fidelity is measured; default: the unit at the strength that serves best.
        cache: replies that are not asked for again; new ones are put in.
        report: told how far it is.
    """
    lessons = lessons_of(preset, engine, for_choosing(preset, SWEPT), report, cache)
    swept = sweep(preset, unit, engine, reader, lessons, cache=cache, report=report)
    chosen = choose_strength(swept)
    fidelity = measure_fidelity(
        preset, chosen.default * unit if mix is None else mix, engine, reader, questions,
        seed=preset.fit.seed, cache=cache, report=report,
    )  # fmt: skip
    return Measured(fidelity, swept, chosen)
