"""The batch loop: which tokens of which replies are decoded next.

Every step is one `llama_decode` for all running replies: the newest token of each that generates,
and beside them, or by turns, pieces of the prompts that are still being read (see `batching`).
Replies join and leave between any two steps. Prompts share what a step has room for, so that a
short one that came late is not kept waiting by a long one. Where cells run short, idle sequences
give way first; then the reply that joined last goes back to the queue, and later goes on where it
was.

Where nobody waits to see the next token, a step decodes on for a few (see `decoding`), and accounts
for them afterwards. An error of llama.cpp in a step of several replies is traced to the one at
fault, and the others go on. What a device steers by itself it may tell some decodes later (see
`hook`), but before a reply joins, ends, or leaves its cells to others.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import nan

from steerplug.engine.batching import AlternatingBatches, SharedBatches
from steerplug.engine.decoding import Outcome, Part, decode
from steerplug.engine.drawing import Drawn
from steerplug.engine.effects import Effects
from steerplug.engine.generation import Followed, Generation
from steerplug.engine.prefix_cache import PrefixCache, common
from steerplug.errors import SteerplugError

_MOST_ON = 15
_HEADROOM = 16
_WORTH_WAITING = 16
_EXPECTED = 256
_MEASURED_STEPS = 256


class Scheduler:
    """All replies of an engine; only its worker calls this.

    Args:
        cache: the cells of its context.
        is_called: whether a step should come to its end, for something else is to be seen to.
    """

    def __init__(self, cache: PrefixCache, is_called: Callable[[], bool] = lambda: False) -> None:
        self.cache, self.context, self._is_called = cache, cache.context, is_called
        by_turns = self.context.model.is_recurrent
        self._batches = AlternatingBatches(cache) if by_turns else SharedBatches(cache)
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []
        self.n_finished = self.n_prompt = self.n_cached = self.n_generated = 0
        self.steps: deque[tuple[float, int]] = deque(maxlen=_MEASURED_STEPS)
        self._untold: deque[Outcome] = deque()

    def __bool__(self) -> bool:
        return bool(self.waiting or self.running)

    def step(self) -> None:
        """Let replies leave and join, then decode once for all that run, and tell what they drew.

        `waiting` --admit--> `running` --choose--> parts --decode--> outcomes --account--> pieces
        """
        begin, before = time.perf_counter(), self.n_generated
        self._let_go()
        self._admit()
        if parts := self._choose():
            outcomes, error = self._decode(parts)
            self._account(parts, outcomes)
            if error is not None:
                self._settle()
                self._find_fault(parts, error)
            self.steps.append((time.perf_counter() - begin, self.n_generated - before))

    def drop(self) -> list[Generation]:
        """Return all replies, which are no longer part of the batch."""
        left = [*self.running, *self.waiting]
        for reply in list(self.running):
            self._leave(reply)
        self.waiting.clear()
        self._untold.clear()
        return left

    # Let go and admit

    def _let_go(self) -> None:
        """End replies that nobody waits for any more."""
        for reply in [*self.running, *self.waiting]:
            if reply.cancelled:
                self._end(reply)
            elif reply.is_overdue:
                self._end(reply, reply.overdue())

    def _end(self, reply: Generation, error: BaseException | None = None) -> None:
        self._settle()
        if reply in self.running:
            self._leave(reply)
            self.n_finished += 1
        elif reply in self.waiting:
            self.waiting.remove(reply)
        else:  # it has ended for what steering did some decodes ago
            return
        reply.end(error)

    def _leave(self, reply: Generation) -> None:
        self.running.remove(reply)
        if reply.held is not None:
            self.cache.release(reply.held)
            reply.held = None

    def _admit(self) -> None:
        """Let waiting replies join in their order, as long as there are sequences and cells.

        One whose prompt begins like a prompt that is being read waits for those cells.
        """
        if not self.waiting:
            return
        self._settle()
        most = min(len(self.cache.sequences), self.context.n_batch)
        for reply in list(self.waiting):
            if len(self.running) >= most:
                return
            if self._is_being_read(reply):
                continue
            if not self.running:
                self.cache.clear_for(reply.keys, min(reply.n_left, _EXPECTED))
            held = self.cache.take(reply.reusable)
            if held is None:
                return
            missing = len(reply.tokens) - len(held) + _HEADROOM * len(self.running)
            if self.running and missing > self.cache.n_cells - self.cache.n_taken:
                self.cache.release(held)
                return
            self.waiting.remove(reply)
            self.running.append(reply)
            if reply.progress.n_generated == 0:
                self.n_prompt += len(reply.tokens)
                self.n_cached += len(held)
            reply.take(held)

    def _is_being_read(self, reply: Generation) -> bool:
        """Whether a running reply is about to decode more of the same beginning than is held."""
        if reply.follows is None:
            keys = reply.reusable
            _held, n = self.cache.find(keys)
            for other in self.running:
                if other.n_missing > 1 and other.held is not None:
                    shared = common(other.keys, keys)
                    if shared >= max(n + _WORTH_WAITING, len(other.held) + 1):
                        reply.follows, n = Followed(other, shared), shared
                        self.cache.keep_at(other.held, shared)
        if reply.follows is not None:
            other, shared = reply.follows
            if other in self.running and other.held is not None and len(other.held) < shared:
                return True
            reply.follows = None
        return False

    # Choose

    def _choose(self) -> list[Part]:
        """Return what to decode next, and make room for it."""
        while self.running:
            parts = self._batches.choose(self.running, self.context.n_batch)
            needed = sum(part.n for part in parts)
            if self.cache.make_room(needed):
                return parts
            generating = sum(part.reply.n_missing == 1 for part in parts)
            if 0 < self.cache.n_free >= generating:
                return self._batches.choose(self.running, self.cache.n_free)
            self._preempt()
        return []

    def _preempt(self) -> None:
        """Send the reply that joined last back to the queue."""
        self._settle()
        if self.running:
            reply = self.running[-1]
            self._leave(reply)
            self.waiting.appendleft(reply)

    # Decode

    def _decode(self, parts: Sequence[Part]) -> tuple[list[Outcome], SteerplugError | None]:
        """Decode once, and on as far as nobody waits for it; see `decoding.decode`."""
        return decode(self.context, parts, 1 + self._n_on(parts), self._is_called)

    def _n_on(self, parts: Sequence[Part]) -> int:
        """Return how many more tokens of each part may be decoded before these are told."""
        if self.waiting or len(parts) < len(self.running):
            return 0
        if not all(reply.runs_on and reply.n_missing == 1 for reply, _ in parts):
            return 0
        room = self.cache.n_free // len(parts)
        return min(_MOST_ON + 1, room, *(reply.n_left for reply, _ in parts)) - 1

    # Account

    def _account(self, parts: Sequence[Part], outcomes: Sequence[Outcome]) -> None:
        """Note the cells of decoded rows, and tell what each reply drew; decode after decode."""
        self._untold.extend(outcomes)
        self._note(effects for outcome in outcomes for effects in outcome.told)
        for outcome in outcomes:
            end = 0
            for (reply, n), result in zip(parts, outcome.drawn, strict=True):
                end += n
                if (held := reply.held) is None:  # it has ended for what steering did
                    continue
                self.cache.extend(held, reply.keys[len(held) : len(held) + n])
                reply.count()
                if result is not None:
                    self._tell(reply, result, self._moved(reply, outcome.effects, end - 1))

    def _moved(self, reply: Generation, effects: Effects | None, row: int) -> float:
        """Return how far the token of a batch row was moved at each block; NaN: nobody waited."""
        is_known = reply.tells_moved or self.context.hook.tells_at_once
        if effects is None or not is_known:
            return nan if reply.is_steered else 0.0
        return effects.moved[row] / max(effects.steered[row], 1)

    def _settle(self) -> None:
        """Account for what steering did in all decodes so far."""
        if self._untold:
            self.context.hook.settle()
            self._note(self.context.hook.untold())

    def _note(self, told: Iterable[Effects]) -> None:
        """Account for what steering did, decode after decode; end replies in which it failed."""
        for outcome, effects in [(self._untold.popleft(), effects) for effects in told]:
            outcome.effects, end = effects, 0
            for reply, n in outcome.parts:
                rows = slice(end, end + n)
                end += n
                if effects.error is not None and any(effects.at_fault[rows]):
                    self._fail(reply, effects.error)
                else:
                    reply.account(sum(effects.moved[rows]), sum(effects.steered[rows]))

    def _tell(self, reply: Generation, drawn: Drawn | Exception, moved: float) -> None:
        before = reply.progress.n_generated
        try:
            if isinstance(drawn, Exception):
                raise drawn
            if reply.tell(drawn, moved):
                self._end(reply)
        except Exception as error:
            self._fail(reply, error)
        self.n_generated += reply.progress.n_generated - before

    def _find_fault(self, parts: Sequence[Part], error: SteerplugError) -> None:
        """Decode each part alone: where together it failed, one of them is at fault."""
        ends = [len(part.reply.held or ()) + part.n for part in parts]
        self.cache.recover(part.reply.held for part in parts if part.reply.held is not None)
        if len(parts) == 1:
            self._fail(parts[0].reply, error)
            return
        for part, end in zip(parts, ends, strict=True):
            self._decode_alone(part.reply, end)

    def _decode_alone(self, reply: Generation, end: int) -> None:
        """Decode the tokens of a reply up to `end`, among them those that a fault has cost."""
        while reply.held is not None and (n := end - len(reply.held)) > 0:
            part = Part(reply, self.cache.until_kept(reply.held, min(n, self.context.n_batch)))
            outcomes, error = self._decode([part])
            self._account([part], outcomes)
            if error is not None:
                self._find_fault([part], error)

    def _fail(self, reply: Generation, error: BaseException) -> None:
        """End a reply, and rely on none of the cells that only it holds."""
        if reply.held is not None:
            self.cache.cut(reply.held, 0)
        self._end(reply, error)
