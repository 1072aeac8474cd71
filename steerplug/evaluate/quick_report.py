"""The short report on a quick fit: how well it stands in for its prompt on a few questions.

Greedy replies of the prompted model are compared row by row, as in the full report (see
`fidelity`); they are some of those that it asks for, and are kept for it. What takes
replies of the steered model is left to it: checks, how they read, and which strength serves best.
"""

from typing import Any

from steerplug.chat.template import ChatTemplate
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.evaluate import fidelity
from steerplug.evaluate.fidelity import Fidelity, row_figures
from steerplug.evaluate.questions import reported_on
from steerplug.fit.estimated_progress import Stage
from steerplug.fit.measure import READ_TOGETHER
from steerplug.fit.plan import Lengths, Pace, compared
from steerplug.fit.progress import Report, silent
from steerplug.fit.questions import spread
from steerplug.fit.reply_cache import ReplyCache
from steerplug.fit.teacher import ASKING, teach
from steerplug.preset import Preset
from steerplug.steering.value import Mix

REPORTED = 6
"""How many of the full report's questions are asked."""


def quick_report(
    preset: Preset,
    mix: Mix,
    engine: Engine,
    reader: Reader,
    *,
    cache: ReplyCache | None = None,
    report: Report = silent,
) -> Fidelity:
    """Return the figures that compare rows, and no others.

    Args:
        preset: one with a teacher.
        mix: what was fitted, at the strength it will be used at.
        engine: the model, to ask.
        reader: of another context on it, to read.
        cache: replies that are not asked for again; new ones are put in.
        report: told how far the work is.

    Raises:
        FitError: the prompted model says nothing, or what the bare model says.
    """
    assert preset.teacher is not None
    questions = reported_on(preset).compared
    some = spread(range(len(questions)), REPORTED)
    lessons = teach(
        engine, ChatTemplate.of(engine.model), preset.teacher, questions, seed=preset.fit.seed,
        temperature=0.0, n_tokens=fidelity.REPLY_TOKENS, some=some, cache=cache, report=report,
    )  # fmt: skip
    figures: dict[str, Any] = row_figures(reader, lessons, [], mix, report)
    return Fidelity(
        n_prompts=len(some), n_replies=0, coherence={}, repetition={}, **figures
    )


def plan_quick_report(preset: Preset, model: Model, pace: Pace) -> list[Stage]:
    """Return the stages of the short report."""
    questions = reported_on(preset).compared
    lengths = Lengths.of(model, preset.teacher, questions)
    n, n_reply = min(REPORTED, len(questions)), fidelity.REPLY_TOKENS
    asked = pace.asked(n, lengths.question, n_reply)
    read = compared(pace, lengths, n, n_reply, 2)
    return [
        Stage(ASKING, "ask", asked),
        Stage("comparing token by token", "read", read, READ_TOGETHER),
    ]
