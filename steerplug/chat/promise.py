"""What a finished reply owes to the schema that was asked for, where no grammar could hold it.

Contract::

    the format, or a call that had to be made    what breaks it is an error
    a call that the model chose to make          handed on, and said in the log: whoever runs the
                                                 tool checks its arguments, and may tell the model

No call is broken otherwise: from its opening on a reply is held to the form and to the tool's
schema, and what only looks like a call, or names no tool that may be called, is text.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steerplug.chat.tool import AUTO, ToolCall, Tools
from steerplug.engine.constraint import Grammar
from steerplug.engine.violation import violation
from steerplug.errors import RequestError

_logger = logging.getLogger("steerplug.chat")


@dataclass(frozen=True)
class Promise:
    """What one reply must follow.

    Args:
        format: what its text must, if it calls no tool.
        tools: what it may call.
        begun: what the text goes on with.
        texts_are_free: whether the texts in a call are held to no pattern or format.
    """

    format: Grammar | None = None
    tools: Tools = field(default_factory=Tools)
    begun: str = ""
    texts_are_free: bool = False

    def check(self, text: str, calls: Sequence[ToolCall]) -> None:
        """Look for what a finished reply breaks.

        Raises:
            RequestError: it breaks what was asked for.
        """
        for call in calls:
            self._check_call(call)
        if calls or not isinstance(self.format, Mapping):
            return
        if broken := violation(self.format, self.begun + text):
            raise RequestError(
                f"the reply breaks its schema {broken}, in what it cannot be held to while it is "
                "generated; ask again with another seed, or leave that out of the schema."
            )

    def _check_call(self, call: ToolCall) -> None:
        tool = next(tool for tool in self.tools.tools if tool.name == call.name)
        if not (broken := violation(tool.parameters, call.arguments, wholly=self.texts_are_free)):
            return
        sentence = (
            f"the call of `{call.name}` breaks its schema {broken}, in what it cannot be held to "
            "while it is generated"
        )
        if self.tools.choice != AUTO:
            raise RequestError(
                f"{sentence}; ask again with another seed, or leave that out of the schema."
            )
        _logger.warning("%s.", sentence)
