"""What the sequences of a context hold, in cells and in states.

A recurrent state cannot be cut back, and neither can sliding windows that keep no more than they
reach (`swa_full` off). That part of a sequence can be saved, and restored into any that holds the
cells of the rest.
"""

import ctypes
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from steerplug.engine.model import Model
from steerplug.engine.sizes import N_BATCH
from steerplug.errors import EngineError

State = NDArray[np.uint8]
"""A copy of what of a sequence cannot be cut back."""

_PARTIAL = llama.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
_WINDOW_PADDING = 256


class Sequences(ABC):
    """The sequences of a context, see there."""

    model: Model
    n_ctx: int
    n_batch: int
    n_seq: int
    is_windowed: bool

    @property
    @abstractmethod
    def handle(self) -> ctypes.c_void_p:
        """The `llama_context` pointer."""

    @property
    def _memory(self) -> ctypes.c_void_p:
        memory: ctypes.c_void_p = llama.llama_get_memory(self.handle)
        return memory

    def keep(self, n: int, sequence: int = 0) -> int:
        """Drop a sequence's cells from position n on; return how many are left (n, or 0).

        Where it cannot be cut back so far, it is dropped whole.
        """
        if self.reaches(n, sequence) and llama.llama_memory_seq_rm(self._memory, sequence, n, -1):
            return n
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return 0

    def reaches(self, n: int, sequence: int) -> bool:
        """Whether a sequence can be cut back to its first n positions."""
        if self.can_be_cut or n == 0:
            return True
        first = int(llama.llama_memory_seq_pos_min(self._memory, sequence))
        if self.model.is_recurrent:
            return first < n
        return self.n_held(sequence) <= n or first <= max(n - self.model.n_swa + 1, 0)

    def save(self, sequence: int) -> State:
        """Return a copy of what of a sequence cannot be cut back."""
        n = llama.llama_state_seq_get_size_ext(self.handle, sequence, _PARTIAL)
        state = np.empty(n, np.uint8)
        n_saved = llama.llama_state_seq_get_data_ext(
            self.handle, _bytes(state), n, sequence, _PARTIAL
        )
        if n_saved != n:
            raise EngineError(f"the state of sequence {sequence} could not be saved.")
        return state

    def restore(self, state: State, sequence: int) -> None:
        """Put a saved state into a sequence that holds the other cells, and maybe more of them."""
        n_read = llama.llama_state_seq_set_data_ext(
            self.handle, _bytes(state), state.size, sequence, _PARTIAL
        )
        if n_read != state.size:
            raise EngineError(f"the state of sequence {sequence} could not be restored.")

    def save_whole(self, sequence: int) -> State:
        """Return a copy of all that a sequence holds."""
        n = llama.llama_state_seq_get_size(self.handle, sequence)
        state = np.empty(n, np.uint8)
        if llama.llama_state_seq_get_data(self.handle, _bytes(state), n, sequence) != n:
            raise EngineError(f"sequence {sequence} could not be saved.")
        return state

    def restore_whole(self, state: State, sequence: int) -> None:
        """Put all that a sequence held into one that holds nothing."""
        n = llama.llama_state_seq_set_data(self.handle, _bytes(state), state.size, sequence)
        if n != state.size:
            raise EngineError("llama.cpp refuses a state of cells that it did not write itself.")

    def share(self, source: int, sequence: int, begin: int, end: int) -> None:
        """Let a sequence hold another's cells of positions [begin, end) as well; none is copied."""
        llama.llama_memory_seq_cp(self._memory, source, sequence, begin, end)

    def n_held(self, sequence: int) -> int:
        """Return how many cells a sequence holds, which begin at position 0."""
        return int(llama.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def clear(self) -> None:
        """Drop all cells of all sequences."""
        llama.llama_memory_clear(self._memory, False)

    def _measure(self) -> None:
        """Measure what a sequence of one token takes."""
        self.cell_bytes = int(llama.llama_state_seq_get_size(self.handle, 0))
        self.state_bytes = 0
        if self.model.has_states:
            self.state_bytes = int(llama.llama_state_seq_get_size_ext(self.handle, 0, _PARTIAL))
            self.cell_bytes -= self.state_bytes

    @property
    def can_be_cut(self) -> bool:
        """Whether any sequence can be cut back to any of its positions."""
        return not (self.is_windowed or self.model.is_recurrent)

    @property
    def n_cells(self) -> int:
        """How many tokens all sequences hold; a state alone takes no more for a longer one."""
        return self.n_ctx if self.model.has_attention else self.n_ctx * self.n_seq

    @property
    def checkpoint_bytes(self) -> int:
        """Memory of a copy of what of a sequence cannot be cut back."""
        return self.state_bytes * (1 if self.model.is_recurrent else self.model.n_swa)

    @property
    def kv_bytes(self) -> int:
        """Memory of all cells, and of the states of all sequences."""
        n_states = self.n_seq if self.model.is_recurrent else self.n_ctx
        if self.is_windowed:
            n_states = int(n_window_cells(self.model, self.n_seq, self.n_batch))
        return self.cell_bytes * self.n_ctx + self.state_bytes * n_states


def n_window_cells(model: Model, n_seq: int, n_batch: int = N_BATCH) -> float:
    """Return how many cells llama.cpp has for sliding windows that keep what they reach.

    Infinite for a model that looks back at everything.
    """
    n = n_seq * model.n_swa + n_batch
    return -(-n // _WINDOW_PADDING) * _WINDOW_PADDING if model.n_swa else math.inf


def _bytes(state: State) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
