"""The prefix cache of models that cannot be cut back to any prefix.

Those are recurrent ones, hybrids, and those whose sliding windows keep no more than they reach.
What of a sequence cannot be cut is copied where another may go on: at the end of each prompt, or of
the question that it ends with; of its first turn, which a system prompt is; of the turn before the
question; of a conversation that goes on; and where two prompts were seen to part. Cells are not
copied: such a checkpoint is of use as long as some sequence holds its cells. Those are shared, and
then the copy is put in place. The cache rule is that of all cells.

The copies take at most `CHECKPOINT_BYTES`, or are `FEWEST_CHECKPOINTS`; the least recently used
give way.
"""

from array import array
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerplug.engine.prefix_cache import Held, PrefixCache, common, token_of
from steerplug.engine.sequences import State
from steerplug.engine.sizes import CHECKPOINT_BYTES, FEWEST_CHECKPOINTS

_APART, _WORTH_CUTTING = 16, 64


@dataclass
class Checkpoint:
    """A copy of the state behind cells with these keys."""

    keys: "array[int]"
    state: State
    used_at: int

    def __len__(self) -> int:
        return len(self.keys)

    def is_of(self, keys: "array[int]") -> bool:
        """Whether these keys begin with its own."""
        return common(self.keys, keys) == len(self)


class Checkpoints(PrefixCache):
    """What the sequences of such a context hold, and the copies of their states.

    Args:
        context: the context, empty.
    """

    keeps_order = False

    def _clear(self) -> None:
        super()._clear()
        self._checkpoints: list[Checkpoint] = []
        self._stops: dict[Held, list[int]] = {}

    @property
    def checkpoint_bytes(self) -> int:
        """Memory of the copies."""
        return sum(checkpoint.state.nbytes for checkpoint in self._checkpoints)

    # Going on

    def find(self, keys: "array[int]") -> tuple[Held, int]:
        """Return the sequence that `keys` can go on from for longest, and from where."""
        ends = [len(checkpoint) for checkpoint in self._checkpoints if checkpoint.is_of(keys)]

        def reach(held: Held) -> int:
            same = common(held.keys, keys)
            last = max((n for n in ends if n <= same), default=0)
            cuts = same < len(held)  # and what is cut off, another may have gone on from
            if held.taken or (cuts and same < last + _WORTH_CUTTING):
                return last
            return same if self.context.reaches(same, held.number) else last

        return max(((held, reach(held)) for held in self.sequences),
                   key=lambda at: (at[1], not at[0].taken, len(at[0]) == at[1]))

    def take(self, keys: "array[int]") -> Held | None:
        """Return a sequence with the longest prefix of `keys` that can be gone on from, if any."""
        held = super().take(keys)
        if held is not None:
            self._save(held)
            self._stops[held] = self._places(keys, len(held))
        return held

    def _goes_on(self, source: Held, n: int) -> bool:
        if source.taken or n == len(source):
            return not source.taken
        return n > 0 and len(self._last(source.keys[:n]) or ()) < n

    def _share(self, source: Held, held: Held, n: int) -> None:
        super()._share(source, held, n)
        self._go_back(held, n)

    def cut(self, held: Held, n: int) -> None:
        """Drop a sequence's cells from position n on, or from the last checkpoint before it."""
        if not self.context.reaches(n, held.number):
            n = self._go_back(held, n)
        super().cut(held, n)
        self._stops.pop(held, None)
        self._checkpoints = [
            checkpoint for checkpoint in self._checkpoints
            if any(checkpoint.is_of(other.keys) for other in self.sequences)
        ]

    def recover(self, failed: Iterable[Held]) -> None:
        """Go back, after a decode that failed, to what is sure to hold."""
        if not (self.context.is_torn and self.context.model.is_recurrent):
            super().recover(failed)
            return
        for held in self.sequences:  # the states of any may have been about to be moved
            self.cut(held, self._go_back(held, len(held)))

    def _go_back(self, held: Held, n: int) -> int:
        """Put a sequence's state back to its last checkpoint up to n; return where that is."""
        checkpoint = self._last(held.keys[:n])
        if checkpoint is None:
            return 0
        self.context.restore(checkpoint.state, held.number)
        checkpoint.used_at = next(self._clock)
        return len(checkpoint)

    def _last(self, keys: "array[int]") -> Checkpoint | None:
        """Return the longest checkpoint of these keys."""
        return max((c for c in self._checkpoints if c.is_of(keys)), key=len, default=None)

    # Keeping states

    def until_kept(self, held: Held, n: int) -> int:
        """Return how many of the next n tokens come before a checkpoint."""
        stops = self._stops.get(held)
        return min(n, stops[0] - len(held)) if stops else n

    def keep_at(self, held: Held, n: int) -> None:
        """Make a checkpoint once a sequence holds n cells."""
        stops = self._stops.setdefault(held, [])
        if n not in stops:
            insort(stops, n)

    def extend(self, held: Held, keys: "array[int]") -> None:
        """Take note of cells that were decoded at the end of a sequence."""
        super().extend(held, keys)
        held.used_at = next(self._clock)
        stops = self._stops.get(held)
        if stops and len(held) == stops[0]:
            del stops[0]
            self._save(held)

    def _places(self, keys: "array[int]", n: int) -> list[int]:
        """Return where to make checkpoints of a prompt, of which n cells are there.

        After its last turn the reply is begun, often with a thought that later prompts leave out.
        """
        vocab, end = self.context.model.vocab, len(keys)
        turns = [i + 1 for i in range(end) if vocab.ends_generation(token_of(keys[i]))]
        parting = max(common(held.keys, keys) for held in self.sequences)
        places: list[int] = []
        for place in sorted({*turns[:1], *turns[-2:], parting, end}):
            if (places[-1] if places else n) + _APART <= place:
                places.append(place)
        return places or [end] * (n < end)

    def _save(self, held: Held) -> None:
        """Make a checkpoint of all that a sequence holds."""
        if not len(held):
            return
        last = self._last(held.keys)
        if last is None or len(last) < len(held):
            last = Checkpoint(held.keys[:], self.context.save(held.number), 0)
            self._make_room_for(last)
            self._checkpoints.append(last)
        last.used_at = next(self._clock)

    def _make_room_for(self, checkpoint: Checkpoint) -> None:
        n = checkpoint.state.nbytes
        while (len(self._checkpoints) >= FEWEST_CHECKPOINTS
               and self.checkpoint_bytes + n > CHECKPOINT_BYTES):
            self._checkpoints.remove(min(self._checkpoints, key=lambda c: c.used_at))

    # The order of sequences

    def line_up(self, helds: Sequence[Held]) -> None:
        """Give these sequences numbers in a row where llama.cpp asks for it: without attention.

        States are not moved where a number is free, and copied once where it is not.
        """
        numbers = {held.number for held in helds}
        if self.context.model.has_attention or max(numbers) - min(numbers) < len(numbers):
            return
        first = {held.number: held for held in self.sequences if held.number < len(helds)}
        free = [held for number, held in first.items() if number not in numbers]
        beyond = [held for held in helds if held.number >= len(helds)]
        for held, other in zip(beyond, free, strict=True):
            self._swap(held, other)

    def _swap(self, a: Held, b: Held) -> None:
        state = self.context.save(b.number) if len(b) else None
        self.context.keep(0, b.number)
        self.context.share(a.number, b.number, 0, len(a))
        self.context.keep(0, a.number)
        if state is not None:
            self.context.restore(state, a.number)
        a.number, b.number = b.number, a.number
