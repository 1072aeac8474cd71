"""What a training moves: parameters beside a frozen model, and how chats are read with them."""

from abc import abstractmethod
from typing import Any

import torch

from steerplug.fit.distill.student import Batch, Student


class Trained(torch.nn.Module):
    """Parameters that are trained to make the bare chat predict what the prompted one does."""

    decays = False
    """Whether weight decay keeps them small."""

    @abstractmethod
    def read(self, student: Student, batch: Batch) -> torch.Tensor:
        """Return the hidden states of the rows of a batch of bare chats, read with these."""

    @property
    @abstractmethod
    def of(self) -> tuple[Any, ...]:
        """What decides on the numbers, besides what all trainings share."""
