"""What a decode did to its rows, and the sentence for each way in which native code fails."""

import math
from typing import NamedTuple

from steerplug.engine.hook_state import HookState
from steerplug.errors import EngineError


class Effects(NamedTuple):
    """What one decode did to each of its rows.

    How far it was moved, |change of h| / |h| summed over its blocks, and at how many blocks it was
    steered. With an error, that is not finite in the rows at fault, or they are all.
    """

    moved: list[float]
    steered: list[int]
    error: EngineError | None = None

    @property
    def at_fault(self) -> list[bool]:
        """Whether each row is what an error is about."""
        finite = [math.isfinite(moved) for moved in self.moved]
        return [all(finite) or not one for one in finite]


def failure(status: int, state: HookState) -> EngineError:
    """Return what native code says by a status other than zero (native/steer.h)."""
    il, found = state.status_il, state.found
    return EngineError(_MESSAGES[status].format(il=il, found=found, state=state))


NOT_FIRED = 4
_MESSAGES = {
    1: "block {il} hands out {found} values that are not float32 rows of {state.n_embd}, so "
       "steerplug cannot steer this model on this device; use another model.",
    2: "block {il} hands out {found} rows for a batch of {state.n_rows}, so "
       "steerplug cannot steer this model on this device; use another model.",
    3: "steering made an activation at block {il} infinite; choose a smaller strength.",
    4: "steering was asked for {state.expected} times and happened {found} times; "
       "this model skips blocks that were to be steered, so use another one.",
    5: "llama.cpp went on with its last graph, where another one was needed; install a "
       "release of llama-cpp-python between 0.3.36 and 0.4.",
}  # fmt: skip
