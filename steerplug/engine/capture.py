"""What a decode is asked for beside logits: activations of blocks, and where it begins and ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from steerplug.errors import EngineError
from steerplug.steering.value import Array


@dataclass(frozen=True, eq=False)
class Given:
    """What left a block, for every row of a batch, as if it were computed there: (n_rows, n_embd).

    The block is steered like any other. Those below are left out, and their cells are of no further
    use.
    """

    il: int
    rows: Array


@dataclass(frozen=True)
class Capture:
    """Which activations to hand over from a decode: blocks, and rows of the batch.

    The result is (n_blocks, n_rows, n_embd) float32: the residual stream as it leaves each block,
    with whatever steering that block applied. With `only`, nothing above the highest of the blocks
    is computed: the decode is shorter, and its cells and logits are of no further use. Where the
    hook `takes_given`, the decode may begin with what left a block below them.
    """

    layers: Sequence[int]
    rows: Sequence[int]
    only: bool = False
    given: Given | None = None

    def check(self, outputs: Sequence[bool], n_layer: int) -> None:
        """Refuse what would be no activations.

        Args:
            outputs: for each row of the batch, whether its logits are asked for.
            n_layer: blocks of the model.

        Raises:
            EngineError: a row is not in the batch, or has nothing at the last block; or a block is
                left out.
        """
        if self.given and not 0 <= self.given.il <= min(*self.layers, n_layer - 2):
            raise EngineError(
                f"block {min(self.layers)} cannot be captured where block {self.given.il} is given."
            )
        for row in self.rows:
            if not 0 <= row < len(outputs):
                raise EngineError(f"row {row} cannot be captured from {len(outputs)} rows.")
            if n_layer - 1 in self.layers and not outputs[row]:
                raise EngineError(
                    f"row {row} has no activation at the last block; ask for its logits as well."
                )
