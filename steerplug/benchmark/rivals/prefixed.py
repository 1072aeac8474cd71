"""What soft prompts and trained K/V share: cells behind a chat's first token, which all read.

    [first token] [n trained cells] [the rest of the bare chat] [reply]

The first token stays in front and untouched, because attention leans on it (the sink of Xiao et
al., arXiv 2309.17453; Cartridges, arXiv 2506.06266, freezes it for that). What is trained starts as
what the prompted chat has in the same places, which those papers found best, and moves in units of
a tenth of its own size, as deltas do: one range of rates suits all.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch

from steerplug.fit.distill.student import Passage, Prefix, Student
from steerplug.fit.distill.trained import Trained

UNIT = 0.1
"""Of the own size, the root of the mean square."""


class Prefixed(Trained):
    """Trained cells behind the first token."""

    @abstractmethod
    def prefix(self, student: Student, /) -> Prefix:
        """Return the first token and the trained cells, with gradients."""

    def read(self, student: Student, batch: Sequence[Passage]) -> torch.Tensor:
        """Return the hidden states of the rows of a batch of whole bare chats."""
        prefix = self.prefix(student)
        return student.hidden([Passage(prefix, x.tokens[1:], x.first - 1) for x in batch])


def size(values: torch.Tensor) -> float:
    """Return the root of the mean square."""
    return float(values.float().pow(2).mean().sqrt())
