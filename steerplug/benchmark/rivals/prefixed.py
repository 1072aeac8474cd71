"""What soft prompts and trained K/V share: cells behind a chat's first token, which all read.

    [first token] [n trained cells] [the rest of the bare chat] [reply]

The first token stays in front and untouched, because attention leans on it (the sink of Xiao et
al., arXiv 2309.17453; Cartridges, arXiv 2506.06266, freezes it for that). What is trained starts as
what the prompted chat has in the same places, which those papers found best, and moves in units of
a tenth of its own size, as deltas do: one range of rates suits all.
"""

import torch

UNIT = 0.1
"""Of the own size, the root of the mean square."""


def size(values: torch.Tensor) -> float:
    """Return the root of the mean square."""
    return float(values.float().pow(2).mean().sqrt())
