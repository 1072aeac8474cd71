"""Which KV cells every sequence of a context holds, and the rule by which they are used again.

The cache rule: a cell may be reused only where (token, steering applied to it) are both equal, for
every token from the start. A cell's key is that pair as one number, so the longest prefix that two
sequences agree on is the longest they may share; llama.cpp then lets both point to the same cells.
Two presets share the cells of an unsteered prompt and nothing else; requests of two partitions
share nothing.

Sequences are taken by a reply or idle. Idle ones are what later requests may begin with; the least
recently used gives way first. Cells shared by several sequences count once.

Cells that nobody holds any more are freed later, and all at once. Until then they belong to a
sequence of their own, the pending one, so that llama.cpp writes new cells behind them, in order,
and not into the gaps that they would leave: attention sums in the order of cells, and in another
order its last bits differ. When no cell is left, the pending ones are reclaimed, and what is
written from then on may lie out of order.
"""

from array import array
from collections.abc import Iterable
from collections.abc import Sequence as Items
from itertools import count

import numpy as np

from steerplug.engine.context import Context
from steerplug.engine.hook import RowSteering
from steerplug.errors import EngineError

_MAX_NAMES = 4096
_WORTH_KEEPING = 8
_TOKEN = 0xFFFFFFFF


class Held:
    """One sequence of the context: the keys of its cells, from position 0 on."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.keys = array("q")
        self.slots = array("i")
        self.taken = False
        self.used_at = 0

    def __len__(self) -> int:
        return len(self.keys)


class PrefixCache:
    """What a context's sequences hold, kept in step with llama.cpp.

    Args:
        context: the context, empty.
    """

    keeps_order = True
    """Whether cells are to lie in the order in which they were written; see above."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.n_cells = context.n_cells
        self._clear()
        self._clock = count(1)
        self._names: dict[tuple[str, str], int] = {}
        self._numbers = count(1)

    def _clear(self) -> None:
        n_seq = self.context.n_seq
        self._pending_sequence = n_seq - 1 if n_seq > 1 and self.keeps_order else None
        n_held = n_seq if self._pending_sequence is None else n_seq - 1
        self.sequences = [Held(number) for number in range(n_held)]
        self._users = [0] * self.n_cells
        self._free = list(range(self.n_cells))
        self._pending: list[int] = []
        self._n_in_order = 0

    def clear(self) -> None:
        """Drop all cells of all sequences. Keys keep their meaning."""
        self.context.clear()
        self._clear()

    def clear_for(self, keys: "array[int]", n: int) -> None:
        """Drop everything if `keys` and n more cells would not lie in order, and little is lost.

        A conversation that goes on keeps its cells in any case.
        """
        source, same = self.find(keys)
        goes_on = 0 < same == len(source)
        n_more = len(keys) - same + n
        in_order = self._pending_sequence is None or self._n_in_order + n_more <= self.n_cells
        if not (in_order or goes_on) and same * _WORTH_KEEPING < self.n_cells:
            self.clear()

    @property
    def checkpoint_bytes(self) -> int:
        """Memory of copies, of which there are none here."""
        return 0

    @property
    def n_free(self) -> int:
        """Cells that may be written now."""
        return len(self._free)

    @property
    def n_used(self) -> int:
        """Cells that some sequence holds."""
        return self.n_cells - len(self._free) - len(self._pending)

    @property
    def n_taken(self) -> int:
        """Cells that some running reply holds; all others are free or can be freed."""
        taken = np.zeros(self.n_cells, bool)
        for held in self.sequences:
            if held.taken:
                taken[np.array(held.slots, np.int32)] = True
        return int(taken.sum())

    def keys(
        self, tokens: Items[int], steering: Items[RowSteering | None], partition: str = ""
    ) -> "array[int]":
        """Return the key of each cell: the token, and a number for what steers it.

        Cells of different partitions have different keys, whatever they hold.
        """
        named = {id(each): self._number(each, partition) for each in set(steering)}
        steered = np.fromiter((named[id(each)] for each in steering), np.int64, len(tokens))
        return array("q", ((steered << 32) | np.asarray(tokens, np.int64)).tobytes())

    def key(self, token: int, steering: RowSteering | None, partition: str = "") -> int:
        """Return the key of one cell."""
        return self._number(steering, partition) << 32 | token

    def _number(self, steering: RowSteering | None, partition: str) -> int:
        if steering is None and not partition:
            return 0
        if len(self._names) > _MAX_NAMES:
            self._names = {}  # numbers are never given twice, so this loses hits and nothing else
        name = partition, steering.key if steering else ""
        return self._names.get(name) or self._names.setdefault(name, next(self._numbers))

    def find(self, keys: "array[int]") -> tuple[Held, int]:
        """Return the sequence that agrees with `keys` for longest, and how long."""
        return max(((held, common(held.keys, keys)) for held in self.sequences),
                   key=lambda at: (at[1], not at[0].taken, len(at[0]) == at[1]))

    def take(self, keys: "array[int]") -> Held | None:
        """Return a sequence with the longest known prefix of `keys`, or None if all are taken.

        A sequence that `keys` goes on from is taken as it is; otherwise what agrees is shared, and
        the sequence it came from stays as it was.
        """
        source, n = self.find(keys)
        idle = [held for held in self.sequences if not held.taken]
        if not idle:
            return None
        if self._goes_on(source, n):
            held = source
        else:
            spare = [held for held in idle if held is not source or n == 0] or idle
            held = min(spare, key=lambda held: (len(held) > 0, held.used_at))
        held.taken = True
        if held is source:
            self.cut(held, n)
        else:
            self.cut(held, 0)
            self._share(source, held, n)
        return held

    def _goes_on(self, source: Held, n: int) -> bool:
        """Whether a sequence whose first n cells agree is taken itself."""
        return not source.taken and n == len(source)

    def _share(self, source: Held, held: Held, n: int) -> None:
        if n:
            self.context.share(source.number, held.number, 0, n)
            held.keys.extend(source.keys[:n])
            held.slots.extend(source.slots[:n])
            for slot in held.slots:
                self._users[slot] += 1

    def extend(self, held: Held, keys: "array[int]") -> None:
        """Take note of cells that were decoded at the end of a sequence."""
        n = len(keys)
        slots, self._free[-n:] = self._free[-n:], []
        self._n_in_order += n
        for slot in slots:
            self._users[slot] = 1
        held.keys.extend(keys)
        held.slots.extend(slots)

    def cut(self, held: Held, n: int) -> None:
        """Drop a sequence's cells from position n on: all of them where it cannot be cut back."""
        if self._pending_sequence is not None and n < len(held):
            self.context.share(held.number, self._pending_sequence, n, len(held))
        n = self.context.keep(n, held.number)
        for slot in held.slots[n:]:
            self._users[slot] -= 1
            if self._users[slot] == 0:
                self._pending.append(slot)
        del held.keys[n:], held.slots[n:]
        if self._pending_sequence is None:
            self._reclaim()

    def recover(self, failed: Iterable[Held]) -> None:
        """Drop what a decode that failed may have left of its rows."""
        for held in failed:
            self.cut(held, len(held))

    def until_kept(self, _held: Held, n: int) -> int:
        """Return how many of the next n tokens of a sequence may be decoded at once."""
        return n

    def keep_at(self, held: Held, n: int) -> None:
        """Take note that another sequence is about to share the first n cells of this one."""

    def line_up(self, helds: Items[Held]) -> None:
        """Give these sequences numbers that may be decoded in one batch."""

    def _reclaim(self) -> None:
        """Free the pending cells."""
        if self._pending_sequence is not None:
            self.context.keep(0, self._pending_sequence)
        self._free.extend(self._pending)
        self._pending, self._n_in_order = [], self.n_cells

    def release(self, held: Held) -> None:
        """Make a sequence idle; what it holds may serve later requests."""
        held.taken, held.used_at = False, next(self._clock)

    def forget(self) -> None:
        """Drop all idle sequences."""
        if not any(held.taken for held in self.sequences):
            self.clear()
        for held in self._idle():
            self.cut(held, 0)

    def check(self) -> None:
        """Hold the accounts against each other, and against what llama.cpp holds.

        Raises:
            EngineError: they do not add up.
        """
        users = [0] * self.n_cells
        for held in self.sequences:
            if not self.context.n_held(held.number) == len(held.keys) == len(held.slots):
                raise EngineError(f"sequence {held.number} is not what its account says.")
            for slot in held.slots:
                users[slot] += 1
        used = [slot for slot, n in enumerate(users) if n]
        if users != self._users or len(used) != self.n_used:
            raise EngineError("cells are held by more or fewer sequences than their account says.")
        if sorted([*used, *self._free, *self._pending]) != list(range(self.n_cells)):
            raise EngineError("a cell is not exactly one of held, free and pending.")

    def _idle(self) -> list[Held]:
        return [held for held in self.sequences if not held.taken and len(held)]

    def make_room(self, n: int) -> bool:
        """Drop idle sequences, least recently used first, until n cells are free."""
        while self.n_free < n:
            if self._pending:
                self._reclaim()
                continue
            idle = self._idle()
            if not idle:
                return False
            self.cut(min(idle, key=lambda held: held.used_at), 0)
        return True


def token_of(key: int) -> int:
    """Return the token of a cell with this key."""
    return key & _TOKEN


def common(a: "array[int]", b: "array[int]") -> int:
    """Return how many keys two sequences have in common from the start."""
    n = min(len(a), len(b))
    if n == 0 or a[0] != b[0]:
        return 0
    differs = np.frombuffer(a, np.int64, n) != np.frombuffer(b, np.int64, n)
    first = int(differs.argmax())
    return first if differs[first] else n
