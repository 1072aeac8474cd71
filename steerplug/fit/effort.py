"""How much a fit is given to learn from: all of it, or the little that a quick one takes.

A quick fit asks some of the full one's questions, spread over their topics, and gets the same
replies; those are kept, and the full fit asks the others. It learns from the first tokens of each,
where most of a style shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steerplug.fit.questions import spread, to_fit
from steerplug.fit.teacher import REPLY_TOKENS, Lesson
from steerplug.preset import Preset
from steerplug.preset.methods import METHODS

QUICK_TOKENS = 24


@dataclass(frozen=True)
class Effort:
    """What a fit learns from.

    Args:
        questions: all that there are to fit on.
        some: the numbers of those that are asked.
        n_tokens: most tokens of a reply that are learned from, of the `REPLY_TOKENS` asked for.
        is_quick: whether that is little.
    """

    questions: Sequence[str]
    some: Sequence[int]
    n_tokens: int
    is_quick: bool

    @property
    def n_rows(self) -> int:
        """Most rows of all replies, boundary tokens included."""
        return len(self.some) * (self.n_tokens + 1)

    def cut(self, lessons: Sequence[Lesson]) -> list[Lesson]:
        """Return lessons without the tokens that are not learned from."""
        return [replace(lesson, reply=lesson.reply[: self.n_tokens]) for lesson in lessons]


def effort(preset: Preset, *, quick: bool) -> Effort:
    """Return what the fit of a preset with a teacher learns from, by the method that it says."""
    method = METHODS[preset.fit.method]
    questions = to_fit(preset, method.n_questions)
    numbers = range(len(questions))
    if not (quick and method.n_quick):
        return Effort(questions, numbers, REPLY_TOKENS, is_quick=False)
    return Effort(questions, spread(numbers, method.n_quick), QUICK_TOKENS, is_quick=True)
