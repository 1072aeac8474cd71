"""What models write around their thoughts; which of it a turn holds is told by `thoughts`."""

import re
from dataclasses import dataclass

MARK = re.compile(r"<[^<>\s]+>|\[/?[A-Z_ ]{2,}\]")
"""What marks look like, whether or not they are tokens of their own."""


@dataclass(frozen=True)
class ThoughtMarks:
    """What a model writes around its thoughts, with the white space that belongs to it.

    Args:
        opening: what begins a thought.
        closing: what ends it.
        lead: what stands between a thought's end and the answer's first word, if anything does.
        head: what begins an answer with no thought before it, if anything does.
        tail: what is written behind an answer before its turn ends, if anything is.
        expected: whether a reply begins with a thought, unless the prompt has opened one already.
        told: whether thoughts are told apart from the answer; they are part of it if not.
    """

    opening: str
    closing: str
    lead: str = ""
    head: str = ""
    tail: str = ""
    expected: bool = False
    told: bool = True

    @property
    def begins_in_frame(self) -> bool:
        """Whether a prompt ends in the midst of a frame, as gpt-oss's do."""
        return bool(self.head) and self.head != self.lead
