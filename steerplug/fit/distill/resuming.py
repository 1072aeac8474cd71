"""A training between two of its steps: kept on the way, and gone on with as if nothing had been.

What is kept are the deltas, what AdamW knows of them, the best pass's deltas and their loss, and
how many steps and passes are behind. The order of the lessons is drawn again from the seed. It is
bound to the lessons and to all that decides on the numbers: what is of another training is left,
as the first round is when the second one runs.
"""

import copy
import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from steerplug.fit.checkpoint import Arrays, Checkpoint

_EVERY = 5.0
"""Seconds between two states that are written."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def bound_to(*settings: Any) -> str:
    """Return what a training says it is of, given all that decides on its numbers."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()


class Run:
    """How far a training is.

    Args:
        deltas: what is trained; set to where it was interrupted.
        optimizer: AdamW over them; likewise.
        kept: where it is kept, if anywhere.
        of: what it is of, see `bound_to`.
    """

    def __init__(
        self, deltas: torch.nn.Module, optimizer: torch.optim.Optimizer,
        kept: Checkpoint | None, of: str,
    ) -> None:  # fmt: skip
        self._deltas, self._optimizer, self._kept, self._of = deltas, optimizer, kept, of
        self.step, self.passes, self.best = 0, -1, math.inf
        self._best_state = copy.deepcopy(deltas.state_dict())
        self._state: Arrays = {}
        self._saved = time.monotonic()
        if kept is not None:
            self._restore(kept.training)

    @contextmanager
    def kept_on_the_way(self) -> Iterator[None]:
        """Keep the last whole step of what is interrupted in here."""
        try:
            yield
        except BaseException:
            self._save()
            raise

    def stepped(self) -> None:
        """Take note of a step of the optimizer."""
        self.step += 1
        self._state = self._arrays()
        if time.monotonic() - self._saved > _EVERY:
            self._save()

    def judged(self, left: float) -> None:
        """Take note of the loss after a pass, or before the first, and keep what is best."""
        self.passes += 1
        if left < self.best or self.passes == 0:
            self.best, self._best_state = left, copy.deepcopy(self._deltas.state_dict())
        self._state = self._arrays()

    def finish(self) -> None:
        """Leave the deltas as they were after their best pass, and keep that it is over."""
        self._save()
        self._deltas.load_state_dict(self._best_state)

    def _save(self) -> None:
        if self._state and self._kept is not None:
            own = {f"{self._of}.{name}": array for name, array in self._state.items()}
            self._kept.keep_training({**self._kept.training, **own})
        self._saved = time.monotonic()

    def _arrays(self) -> Arrays:
        arrays: Arrays = {
            "progress": np.array([self.step, self.passes], np.int64),
            "best": np.array(self.best, np.float64),
        }
        for name, parameter in self._deltas.named_parameters():
            arrays[f"now-{name}"] = _array(parameter)
            arrays[f"best-{name}"] = _array(self._best_state[name])
            for moment, value in self._optimizer.state[parameter].items():
                arrays[f"{moment}-{name}"] = _array(value)
        return arrays

    def _restore(self, kept: Arrays) -> None:
        """Go on where it was, if there is anything of it."""
        arrays = {name.removeprefix(f"{self._of}."): array for name, array in kept.items()
                  if name.startswith(self._of)}  # fmt: skip
        if not arrays:
            return
        self.step, self.passes = map(int, arrays["progress"])
        self.best = float(arrays["best"])
        names = [name for name, _ in self._deltas.named_parameters()]

        def values(of: str) -> dict[str, torch.Tensor]:
            return {name: torch.from_numpy(arrays[f"{of}-{name}"].copy()) for name in names}

        self._deltas.load_state_dict(values("now"))
        self._best_state = values("best")
        if self.step:
            moments = {of: values(of) for of in _MOMENTS}
            state = {i: {of: moments[of][name] for of in _MOMENTS} for i, name in enumerate(names)}
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def _array(value: torch.Tensor) -> Any:
    return value.detach().cpu().numpy().copy()
