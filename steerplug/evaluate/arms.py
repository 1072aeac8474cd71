"""The ways to bring a preset into a chat that are measured side by side.

    bare          not at all
    prompted      its teacher in front: system text and example turns
    paraphrased   the same in other words, where they are known (see `scripts`)
    steered       its steering, without a prompt
    answer_only   its steering at the answer alone: earlier ones are read again without it
    both          the teacher's system text without its examples, and the steering

No arm is held to a preset's `decoding`: a grammar would keep its checks, whatever else carries it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.scope import Prompt
from steerplug.evaluate.fidelity import BARE, PROMPTED, STEERED
from steerplug.evaluate.scripts import reworded
from steerplug.fit.teacher import prompted_chat
from steerplug.preset import Preset, Teacher
from steerplug.steering.value import NOTHING, Mix

PARAPHRASED, ANSWER_ONLY, BOTH = "paraphrased", "answer_only", "both"


@dataclass(frozen=True)
class Arm:
    """One way: what is put in front of a chat, what steers, and whether earlier answers too."""

    teacher: Teacher | None = None
    mix: Mix = NOTHING
    earlier: bool = True

    def prompt(self, template: ChatTemplate, messages: Sequence[Message]) -> Prompt:
        """Return the tokens of a chat that is brought the preset so."""
        chat = prompted_chat(self.teacher, messages) if self.teacher else messages
        return template.prompt(chat, spans=bool(self.mix) and self.earlier, at_once=True)


def arms_of(preset: Preset, mix: Mix) -> dict[str, Arm]:
    """Return all arms of a preset with a teacher, as far as it has them."""
    teacher = preset.teacher
    assert teacher is not None
    arms = {BARE: Arm(), PROMPTED: Arm(teacher)}
    if (other := reworded(preset)) is not None:
        arms[PARAPHRASED] = Arm(other)
    arms[STEERED] = Arm(mix=mix)
    if any(term.steering.scope == "response" for term in mix.terms):
        arms[ANSWER_ONLY] = Arm(mix=mix, earlier=False)
    if teacher.system is not None:
        arms[BOTH] = Arm(teacher.model_copy(update={"examples": ()}), mix)
    return arms
