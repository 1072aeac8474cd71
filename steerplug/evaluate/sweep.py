"""Strength against fidelity and against how well replies read: where to stop turning.

At every strength the same lessons give `gap_closed` (see `fidelity`), and greedy steered replies to
their questions give coherence and repetition (see `replies`). A strength is *safe* where those
replies read no worse than the prompted model's own replies, by the margins of `Limits`. The safe
range is the run of safe strengths around the default, or nearest to it where the default itself is
not safe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerplug.chat.template import ChatTemplate
from steerplug.engine.engine import Engine
from steerplug.engine.reader import Reader
from steerplug.evaluate.estimate import NO_ESTIMATE, Estimate, ratio
from steerplug.evaluate.replies import JudgedReply, Quality, Reading, greedy, read, schema_of
from steerplug.fit.measure import divergence, prompted_log_probs, reply_log_probs
from steerplug.fit.progress import Report, at_once, silent, steps
from steerplug.fit.reply_cache import ReplyCache
from steerplug.fit.teacher import REPLY_TOKENS, Lesson, teach
from steerplug.preset import Preset
from steerplug.steering.value import NOTHING, Array, Mix, Steering

N_STRENGTHS = 9


@dataclass(frozen=True)
class Limits:
    """How much worse than the replies of reference a safe reply may read.

    Args:
        coherence: nats per token below theirs.
        repetition: above theirs, as a share of 4-grams; one reply in eight that goes round
            in circles adds about 0.1.
    """

    coherence: float = 0.5
    repetition: float = 0.15


LIMITS = Limits()


@dataclass(frozen=True)
class Point:
    """What a strength does; `gap_closed` is empty for a preset without a teacher."""

    strength: float
    gap_closed: Estimate
    quality: Quality


@dataclass(frozen=True, eq=False)
class Sweep:
    """A preset at rising strengths.

    Args:
        points: one for each strength.
        reference: how the lessons' own replies read: the prompted model's, or the bare model's for
            a preset without a teacher.
        preferred: the preset's own default strength.
        gap: (n_lessons,) sum KL(prompted || bare).
        closed: (n_points, n_lessons) the same less sum KL(prompted || steered).
    """

    points: tuple[Point, ...]
    reference: Quality
    preferred: float
    gap: NDArray[np.float64]
    closed: NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """The strength to use unless another is said, and the safe range; None if none is safe."""

    default: float
    safe_min: float | None
    safe_max: float | None


def strengths_of(preset: Preset) -> list[float]:
    """Return 9 strengths from the preset's min to its max, with 0 and its default among them."""
    strength = preset.strength
    spread = np.linspace(strength.min, strength.max, N_STRENGTHS).round(4)
    return sorted({*map(float, spread), 0.0, strength.default})


def lessons_of(
    preset: Preset,
    engine: Engine,
    questions: Sequence[str],
    report: Report = silent,
    cache: ReplyCache | None = None,
) -> list[Lesson]:
    """Return what a sweep compares with: the prompted model's greedy replies to questions.

    Of a preset without a teacher they are the bare model's, and close no gap.
    """
    model = engine.model
    template = ChatTemplate.of(model)
    if preset.teacher is not None:
        return teach(
            engine, template, preset.teacher, questions, seed=0, temperature=0.0, cache=cache,
            report=report,
        )  # fmt: skip
    bare = [template.asked(question) for question in questions]
    return [
        Lesson(prompt, prompt, greedy(engine, prompt, n_tokens=REPLY_TOKENS, cache=cache).tokens)
        for prompt in steps(bare, "asking the bare model", report)
    ]


def sweep(
    preset: Preset,
    steering: Steering | Mix,
    engine: Engine,
    reader: Reader,
    lessons: Sequence[Lesson],
    *,
    strengths: Sequence[float] | None = None,
    cache: ReplyCache | None = None,
    report: Report = silent,
) -> Sweep:
    """Return what steering does at each strength.

    Args:
        preset: what the steering is for.
        steering: the numbers at strength 1.
        engine: the model, to generate.
        reader: of another context on the same model, as large as the engine's.
        lessons: the prompted model's replies; greedy ones, as the steered are.
        strengths: default: `strengths_of` the preset.
        cache: replies that are not asked for again; new ones are put in.
        report: told how far the work is.
    """
    strengths = strengths_of(preset) if strengths is None else strengths
    mixes = [strength * Mix.of(steering) for strength in strengths]
    gap, closed = np.zeros(len(lessons)), np.zeros((len(mixes), len(lessons)))
    readings: list[list[Reading]] = [[] for _ in mixes]
    own = []
    counted = enumerate(steps(lessons, "trying strengths", report))
    taught = prompted_log_probs(reader, lessons)
    for (i, _), (lesson, prompted) in zip(counted, taught, strict=True):
        gap[i], closed[:, i] = _gap_and_closed(reader, lesson, prompted, mixes)
        own.append(read(reader, JudgedReply(lesson.bare, lesson.reply, "")))
        replies = at_once(partial(_say, preset, engine, lesson, cache), mixes)
        for reply, readings_of_mix in zip(replies, readings, strict=True):
            readings_of_mix.append(read(reader, reply))
    points = tuple(
        Point(
            strength,
            NO_ESTIMATE if preset.teacher is None else ratio(closed_of_mix, gap),
            Quality.of(readings_of_mix),
        )
        for strength, closed_of_mix, readings_of_mix in zip(
            strengths, closed, readings, strict=True
        )
    )
    return Sweep(points, Quality.of(own), preset.strength.default, gap, closed)


def _say(
    preset: Preset, engine: Engine, lesson: Lesson, cache: ReplyCache | None, mix: Mix
) -> JudgedReply:
    schema = schema_of(preset, mix)
    return greedy(engine, lesson.bare, mix, schema=schema, n_tokens=REPLY_TOKENS, cache=cache)


def _gap_and_closed(
    reader: Reader, lesson: Lesson, prompted: Array, mixes: Sequence[Mix]
) -> tuple[float, NDArray[np.float64]]:
    """Return what the prompt does to a lesson, and what each mix does of it, in nats.

    `prompted` is what the prompted model says, (n_rows, n_vocab).
    """
    weights = np.exp(prompted)
    students = reply_log_probs(reader, lesson.bare, lesson.reply, [NOTHING, *filter(None, mixes)])
    left = (divergence(weights, prompted, student).sum() for student in students)
    gap = next(left)
    return gap, np.array([gap - next(left) if mix else 0.0 for mix in mixes])


def choose_strength(swept: Sweep, limits: Limits = LIMITS) -> Chosen:
    """Return the strength that closes most of the gap, and the safe range.

    The preset's own default is kept unless another strength closes more by more than chance: the
    95 % interval of the difference, over the same prompts, lies above 0.
    """
    points = swept.points
    kept = min(range(len(points)), key=lambda i: abs(points[i].strength - swept.preferred))
    best = int(swept.closed.sum(axis=1).argmax())
    better = ratio(swept.closed[best] - swept.closed[kept], swept.gap).interval
    if points[kept].gap_closed.value is not None and better and better[0] > 0:
        kept = best
    default = points[kept].strength
    safe = [is_safe(point, swept.reference, limits) for point in points]
    if not any(safe):
        return Chosen(default, None, None)
    first = last = min(np.flatnonzero(safe), key=lambda i: abs(points[i].strength - default))
    while first > 0 and safe[first - 1]:
        first -= 1
    while last < len(points) - 1 and safe[last + 1]:
        last += 1
    return Chosen(default, points[first].strength, points[last].strength)


def is_safe(point: Point, reference: Quality, limits: Limits = LIMITS) -> bool:
    """Say whether replies at this strength read no worse than the prompted model's own.

    A few replies measure that coarsely; worse is only what lies beyond the margin with its whole
    95 % interval.
    """
    coherence, repetition = point.quality.coherence, point.quality.repetition
    own_coherence, own_repetition = reference.coherence.value, reference.repetition.value
    if coherence.value is None or own_coherence is None:
        return False
    most = coherence.interval[1] if coherence.interval else coherence.value
    least = repetition.interval[0] if repetition.interval else repetition.value or 0.0
    return (
        most >= own_coherence - limits.coherence
        and least <= (own_repetition or 0.0) + limits.repetition
    )


def as_dict(swept: Sweep, chosen: Chosen) -> dict[str, Any]:
    """Return a sweep and what was chosen from it as JSON values."""
    return {
        "default": chosen.default,
        "safe_min": chosen.safe_min,
        "safe_max": chosen.safe_max,
        "reference": _quality(swept.reference),
        "points": [
            {
                "strength": point.strength,
                "gap_closed": point.gap_closed.as_json()[0],
                "gap_closed_interval": point.gap_closed.as_json()[1],
                **_quality(point.quality),
            }
            for point in swept.points
        ],
    }


def _quality(read: Quality) -> dict[str, Any]:
    coherence, repetition = read.coherence.as_json(), read.repetition.as_json()
    return {
        "coherence": coherence[0], "coherence_interval": coherence[1],
        "repetition": repetition[0], "repetition_interval": repetition[1],
    }  # fmt: skip
