"""How one model thinks: its marks, how its template takes thoughts back, and what switches them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from steerplug.engine.thought_marks import ThoughtMarks
from steerplug.errors import RequestError

NO_EFFORT = "none"
EFFORTS = (NO_EFFORT, "minimal", "low", "medium", "high", "xhigh", "max")

Replayed = Literal["fields", "parts", "none"]
"""How a template reads earlier thoughts: in a field of the message, as a part of its content, or
not at all."""


@dataclass(frozen=True)
class Thoughts:
    """How a model thinks, as its template tells it.

    Args:
        marks: what stands around thoughts.
        replayed: how the template reads those of earlier turns.
        on, off: variables that switch thinking; none where nothing does.
        opens: whether a chat with thinking on ends in an open thought.
        closes: whether one with thinking off ends behind an empty thought.
    """

    marks: ThoughtMarks
    replayed: Replayed = "none"
    on: Mapping[str, Any] = field(default_factory=dict)
    off: Mapping[str, Any] = field(default_factory=dict)
    opens: bool = False
    closes: bool = False

    def marks_behind(self, text: str, variables: Mapping[str, Any]) -> ThoughtMarks:
        """Return the marks of a reply to a chat, with whether a thought is expected there.

        Args:
            text: the chat, up to where the reply begins.
            variables: what its template was given.
        """
        return replace(self.marks, expected=self._is_expected(text, variables))

    def _is_expected(self, text: str, variables: Mapping[str, Any]) -> bool:
        if self.is_open(text) or self._is_closed(text):
            return False
        if self.closes or self.opens:
            return self.closes
        if self.on:
            return all(variables.get(name) == value for name, value in self.on.items())
        return self.replayed != "none"

    @property
    def is_told(self) -> bool:
        """Whether the template tells of thoughts, and not the model's tokens alone."""
        return self.replayed != "none" or self.opens or self.closes or bool(self.on)

    def is_open(self, text: str) -> bool:
        """Whether a chat ends in a thought that it opened."""
        return text.rstrip().endswith(self.marks.opening.strip())

    def _is_closed(self, text: str) -> bool:
        return text.rstrip().endswith(self.marks.closing.strip())

    def ended(self, text: str, variables: Mapping[str, Any]) -> str:
        """Return what makes a chat end where the answer begins, with no thought before it."""
        marks = self.marks
        if self.is_open(text):
            end = marks.closing + marks.lead
            return end.lstrip() if text.endswith("\n") else end
        if marks.begins_in_frame:
            return marks.head
        if self._is_closed(text):
            return marks.lead
        return self._empty() if self._is_expected(text, variables) else ""

    def _empty(self) -> str:
        return self.marks.opening + self.marks.closing + self.marks.lead


def switched(
    thoughts: Thoughts | None, reads_effort: bool, model_name: str,
    think: bool | None, effort: str | None,
) -> Mapping[str, Any]:  # fmt: skip
    """Return the template's variables that switch thinking as it is asked for.

    Args:
        thoughts: how the model thinks; None where it does not.
        reads_effort: whether its template reads `reasoning_effort`.
        model_name: how errors name the model.
        think: whether it is to think; None leaves it to the template.
        effort: how hard; "none" is not at all.

    Raises:
        RequestError: the template has no such switch, or the two contradict each other.
    """
    if effort is not None and effort not in EFFORTS:
        raise RequestError(f"reasoning_effort is {effort!r:.40}; give one of {', '.join(EFFORTS)}.")
    if think is not None and effort is not None and think == (effort == NO_EFFORT):
        raise RequestError(
            f"enable_thinking is {think} and reasoning_effort is {effort!r}; set only one of them."
        )
    if think is False or effort == NO_EFFORT:
        return _off(thoughts, model_name)
    variables = dict(_on(thoughts, model_name)) if think else {}
    if effort is None:
        return variables
    if not reads_effort:
        instead = "enable_thinking" if thoughts and thoughts.on else "thinking_budget_tokens"
        reason = f"; use {instead}" if thoughts else ", and it does not think; leave it out"
        raise RequestError(f"the chat template of {model_name} reads no reasoning_effort{reason}.")
    on = thoughts.on if thoughts else {}
    return {**on, **variables, "reasoning_effort": effort}


def _off(thoughts: Thoughts | None, model_name: str) -> Mapping[str, Any]:
    if thoughts is None or not thoughts.is_told:
        return {}
    if not thoughts.off:
        raise RequestError(
            f"the chat template of {model_name} has no switch for thinking; to have none, set "
            "thinking_budget_tokens to 0."
        )
    return thoughts.off


def _on(thoughts: Thoughts | None, model_name: str) -> Mapping[str, Any]:
    if thoughts is None:
        raise RequestError(
            f"{model_name} does not think, as far as its chat template tells; leave "
            "enable_thinking out."
        )
    return thoughts.on
