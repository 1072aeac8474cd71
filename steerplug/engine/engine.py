"""An engine: many requests at once on one model, each steered as it says.

The fronts of the batch: `generate` for threads, `agenerate` for an event loop. Steering belongs to
a request, never to the engine; which KV cells it may reuse is the business of `prefix_cache`,
what is decoded when that of `scheduler`.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from queue import SimpleQueue

from steerplug.engine import fork
from steerplug.engine.context import Context
from steerplug.engine.devices import tensors_on_host
from steerplug.engine.generation import Deliver, Generation, Item
from steerplug.engine.handover import at_the_end, to_loop
from steerplug.engine.model import Model
from steerplug.engine.request import Logprobs, Piece, Progress, Request
from steerplug.engine.row_order import ONE_AT_A_TIME
from steerplug.engine.sequences import n_window_cells
from steerplug.engine.sizes import N_SEQ, N_SEQ_OF_STATES
from steerplug.engine.worker import Worker
from steerplug.errors import EngineError, ModelError

__all__ = ["Engine", "Logprobs", "Metrics", "Piece", "Progress", "Request"]


@dataclass(frozen=True)
class Metrics:
    """What an engine does and holds, at one moment.

    Args:
        n_running, n_waiting: requests that take part in the batch, and that wait to.
        n_finished: requests that took part and have ended.
        prompt_tokens, cached_tokens: tokens of prompts so far, and how many were not computed.
        generated_tokens: tokens of replies so far.
        tokens_per_second: of replies, over the latest steps.
        cells_used, n_cells: KV cells that hold a token, and how many there are.
        sequences_used, n_seq: the same for sequences.
        kv_bytes: memory of all KV cells and running states.
        checkpoint_bytes: memory of states that were copied to go on from, see `checkpoints`.
    """

    n_running: int
    n_waiting: int
    n_finished: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    tokens_per_second: float
    cells_used: int
    n_cells: int
    sequences_used: int
    n_seq: int
    kv_bytes: int
    checkpoint_bytes: int


class Engine:
    """A model that answers many requests at once; safe to call from any thread.

    In a forked child it begins anew at first use, on the same weights, with no cell of before.

    Args:
        model: the loaded model.
        n_ctx: most tokens of one conversation; default: as the model was loaded for; 0: as many as
            it was trained for.
        n_cells: KV cells, which all requests share; default: n_ctx.
        n_seq: most sequences, running or kept for later; default: 32, or 8 where each has memory of
            its own, which is a running state, or sliding windows without `swa_full`; 1 on PLaMo 2.
        n_queue: most requests that wait to take part.
        swa_full: keep every token that sliding windows have passed: more memory, and a conversation
            can be gone on from at any of its tokens, not at checkpoints alone; default: as the
            model was loaded for.
        type_v: of the cache of values; default: as the model was loaded for.
        n_threads: threads; default: as the model was loaded for, or as many as there are processors
            at hand (`processors`).

    Raises:
        ModelError: the model cannot be steered, or a size makes no sense.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int | None = None,
        n_cells: int | None = None,
        n_seq: int | None = None,
        n_queue: int = 256,
        swa_full: bool | None = None,
        type_v: str | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.model = model
        for name, value in (("n_seq", n_seq), ("n_queue", n_queue)):
            if value is not None and value < 1:
                raise ModelError(f"{name} is {value}; give at least 1.")
        n_ctx = _conversation(model, n_ctx)
        if n_cells is not None and n_cells < n_ctx:
            raise ModelError(
                f"n_cells is {n_cells}, too few for one conversation of n_ctx = {n_ctx} tokens; "
                "raise it, or lower n_ctx."
            )
        self._n_queue, self._n_threads = n_queue, n_threads
        self._n_seq, self._type_v = n_seq, type_v
        self._swa_full = model.loading.swa_full if swa_full is None else swa_full
        self._beginning = threading.Lock()
        self._begin(n_cells or n_ctx)
        self.n_ctx = self.context.n_ctx if n_cells is None else n_ctx
        fork.carry(self)

    def _begin(self, n_cells: int) -> None:
        self.context = self._new_context(n_cells)
        self._own = Worker(self.context, self._n_queue)
        self._close = weakref.finalize(self, self._own.close)  # also when the process ends
        self._process = os.getpid()

    def _new_context(self, n_cells: int) -> Context:
        """Return a context of as many sequences as were asked for, or as suit the model."""
        alone = self.model.architecture in ONE_AT_A_TIME
        n_seq = self._n_seq or (1 if alone else N_SEQ_OF_STATES)
        window = n_window_cells(self.model, n_seq, self.model.loading.n_batch)
        swa_full = self._swa_full or window >= n_cells
        if swa_full and not self.model.is_recurrent:
            n_seq = (self._n_seq or N_SEQ) + 1  # one more for pending cells
        return Context(
            self.model, n_ctx=n_cells, n_seq=n_seq, swa_full=swa_full, type_v=self._type_v,
            n_threads=self._n_threads,
        )  # fmt: skip

    @property
    def _worker(self) -> Worker:
        """The worker, of this very process."""
        if self._process != os.getpid() and not self._own.is_closed:
            self._begin_in_child()
        return self._own

    def _begin_in_child(self) -> None:
        if not tensors_on_host():
            raise EngineError(
                f"{self.model.path.name} was loaded before this process was forked, and what lies "
                "on a GPU is not carried over; load the model in the child, or start processes by "
                "`spawn`."
            )
        with self._beginning:
            if self._process != os.getpid():
                self._begin(self.context.n_ctx)

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return not self._own.is_closed

    def before_fork(self) -> None:
        """Make no step until the fork is made."""
        self._own.rest()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on in the parent; in the child the worker is gone, and nobody waits for its end."""
        self._own.go_on()
        if in_child:
            self._close.detach()
            self._beginning = threading.Lock()

    def generate(
        self, request: Request, progress: Progress | None = None, *, whole: bool = False
    ) -> Generator[Piece, None, None]:
        """Yield the reply token by token, and keep `progress` up to date.

        The reply is made while it is read; closing the iterator ends it. If `whole`, the pieces are
        handed over when the last is there: faster, for the reader is not woken at every token, and
        `progress` falls behind by up to 16 tokens.

        Raises:
            ContextOverflow: the prompt leaves no room for a reply token.
            RequestError: the prompt is empty, a limit makes no sense, or its grammar does not.
            EngineBusy: too many requests are waiting.
            ReplyTimeout: the reply took longer than the request allows.
            EngineError: inference failed, or steering did not happen.
        """
        process, inbox = os.getpid(), SimpleQueue[Item]()
        reply = self._reply(request, progress, inbox.put, whole)
        self._worker.submit(reply)
        try:
            while (piece := _piece(inbox.get())) is not None:
                yield piece
                _check_process(process)
        finally:
            self._own.cancel(reply)

    async def agenerate(
        self, request: Request, progress: Progress | None = None, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Yield the reply token by token on an event loop, as `generate` does in a thread.

        Closing the iterator, or cancelling the task that reads it, ends the reply.
        """
        inbox: asyncio.Queue[Item] = asyncio.Queue()
        deliver = to_loop(asyncio.get_running_loop(), inbox.put_nowait)
        reply = await asyncio.to_thread(self._reply, request, progress, deliver, whole)
        self._worker.submit(reply)
        try:
            while (piece := _piece(await inbox.get())) is not None:
                yield piece
        finally:
            self._own.cancel(reply)

    def check(self, request: Request) -> None:
        """Refuse a request that cannot be served; see `Request.check` for the errors."""
        request.check(self.n_ctx, self.model.vocab.n_tokens)

    def _reply(
        self, request: Request, progress: Progress | None, deliver: Deliver, whole: bool
    ) -> Generation:
        self.check(request)
        return Generation(
            request, progress or Progress(), at_the_end(deliver) if whole else deliver,
            self._worker.scheduler.cache, self.model.vocab, self.n_ctx, whole=whole,
        )  # fmt: skip

    def metrics(self) -> Metrics:
        """Return what the engine does and holds at this moment."""
        scheduler = self._worker.scheduler
        cache = scheduler.cache
        steps = [step for step in list(scheduler.steps) if step[1]]
        seconds = sum(step[0] for step in steps)
        return Metrics(
            n_running=len(scheduler.running),
            n_waiting=self._worker.n_waiting,
            n_finished=scheduler.n_finished,
            prompt_tokens=scheduler.n_prompt,
            cached_tokens=scheduler.n_cached,
            generated_tokens=scheduler.n_generated,
            tokens_per_second=sum(step[1] for step in steps) / seconds if seconds else 0.0,
            cells_used=cache.n_used,
            n_cells=cache.n_cells,
            sequences_used=sum(len(held) > 0 for held in cache.sequences),
            n_seq=len(cache.sequences),
            kv_bytes=self.context.kv_bytes,
            checkpoint_bytes=cache.checkpoint_bytes,
        )

    def forget(self) -> None:
        """Let later requests find no cells of earlier ones; running ones keep theirs."""
        self._worker.forget()

    def close(self) -> None:
        """End all replies and free the context; the model stays."""
        self._close()


def _conversation(model: Model, n_ctx: int | None) -> int:
    """Return how many tokens a conversation may have: no more than the model was trained for.

    Where positions are scaled by hand, that is no limit.
    """
    asked = model.loading.n_ctx if n_ctx is None else n_ctx
    if asked == 0:
        return model.n_ctx_train
    return asked if model.loading.stretches else min(asked, model.n_ctx_train)


def _check_process(process: int) -> None:
    """Refuse to go on with a reply in a child of the process that makes it."""
    if process != os.getpid():
        raise EngineError(
            f"this reply is made in the process {process}, from which this one was forked; ask for "
            "it again here."
        )


def _piece(item: Item) -> Piece | None:
    if isinstance(item, BaseException):
        raise item
    return item
