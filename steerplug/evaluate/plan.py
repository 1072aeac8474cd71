"""What a report will do, stage by stage, and how long it should take here; see `fit.plan`."""

from steerplug.engine.model import Model
from steerplug.evaluate import fidelity
from steerplug.evaluate.questions import Questions
from steerplug.evaluate.sweep import strengths_of
from steerplug.fit.estimated_progress import Stage
from steerplug.fit.measure import READ_TOGETHER
from steerplug.fit.plan import Lengths, Pace, compared, expected_tokens
from steerplug.fit.questions import SWEPT
from steerplug.fit.teacher import ASKING, ASKING_STEERED, REPLY_TOKENS
from steerplug.preset import Preset


def plan_report(preset: Preset, model: Model, questions: Questions, pace: Pace) -> list[Stage]:
    """Return the stages of the report on a preset with a teacher."""
    asked = [*questions.compared, *questions.further]
    lengths = Lengths.of(model, preset.teacher, asked)
    n_strengths, n_reply = len(strengths_of(preset)), fidelity.REPLY_TOKENS

    def asking(what: str, n: int, n_reply: int = n_reply) -> Stage:
        seconds = pace.asked(n, lengths.question, n_reply)
        return Stage(what, "ask", seconds)

    n_compared = 2 * len(questions.compared) + len(questions.neutral)
    prompted, rows = lengths.prompted / READ_TOGETHER, expected_tokens(REPLY_TOKENS)
    n_rows = expected_tokens(n_reply)
    tried = prompted + (n_strengths + 1) * rows + n_strengths * n_rows
    each = tried * pace.read + pace.asked(n_strengths, 0, n_reply)
    reading = Stage("reading replies", "read", len(asked) * n_rows * pace.scored, 4)
    rounds = (len(questions.compared), len(questions.further), len(questions.compared),
              len(questions.neutral))  # fmt: skip
    return [
        asking(ASKING, SWEPT, REPLY_TOKENS),
        Stage("trying strengths", "read", SWEPT * each),
        asking("asking the bare model", len(asked)),
        asking(ASKING_STEERED, len(asked)),
        *(asking(ASKING, n) for n in rounds if n),
        Stage("comparing token by token", "read",
              compared(pace, lengths, n_compared, n_reply, 2), READ_TOGETHER),
        *[reading] * 3,
    ]
