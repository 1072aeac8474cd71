"""Presets that their prompts carry: several teachers as one, and how many tokens that costs."""

from collections.abc import Sequence
from functools import lru_cache

from steerplug.chat.template import ChatTemplate, Message
from steerplug.fit.teacher import prompted_chat
from steerplug.preset import Teacher

_MOST_KNOWN = 64


def joined(teachers: Sequence[Teacher]) -> Teacher | None:
    """Return one teacher that says what all say: system texts in order, then all examples."""
    if len(teachers) < 2:
        return teachers[0] if teachers else None
    systems = [teacher.system for teacher in teachers if teacher.system]
    examples = tuple(example for teacher in teachers for example in teacher.examples)
    # longer than one preset may be, so it is not validated as one
    return Teacher.model_construct(system="\n\n".join(systems) or None, examples=examples)


class PromptLengths:
    """How many tokens prompts of presets add to a chat.

    Args:
        template: how the model reads chats.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.added = lru_cache(maxsize=_MOST_KNOWN)(self._added)

    def _added(self, teacher: Teacher, own_system: str | None) -> int:
        """Return how many tokens a teacher adds to a chat with the caller's own system text."""
        own = [] if own_system is None else [{"role": "system", "content": own_system}]
        bare: list[Message] = [*own, {"role": "user", "content": "Hello"}]
        prompted = prompted_chat(teacher, bare)
        n_bare, n_prompted = (
            len(self._template.prompt(chat, spans=False).tokens) for chat in (bare, prompted)
        )
        return max(n_prompted - n_bare, 0)  # it may be shorter than the template's own system text
