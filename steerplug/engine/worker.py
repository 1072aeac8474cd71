"""The thread that runs a batch: started by the first request, ended by `close`.

Requests are handed over under a lock and bounded in number. Should the thread die, everyone who
waits is told, and the next request starts it again with an empty cache.
"""

import logging
import threading
from collections.abc import Callable

from steerplug.engine import threads
from steerplug.engine.checkpoints import Checkpoints
from steerplug.engine.context import Context
from steerplug.engine.generation import Generation
from steerplug.engine.prefix_cache import PrefixCache
from steerplug.engine.scheduler import Scheduler
from steerplug.errors import EngineBusy, EngineError

_logger = logging.getLogger("steerplug.engine")


class Worker:
    """Runs the batch of one context; but for `scheduler`, any thread may call it.

    Args:
        context: the context; the worker frees it in the end.
        n_queue: most requests that wait for a sequence.
    """

    def __init__(self, context: Context, n_queue: int) -> None:
        self.context, self.n_queue = context, n_queue
        cache = PrefixCache(context) if context.can_be_cut else Checkpoints(context)
        self.scheduler = Scheduler(cache, self._is_called)
        self._arrived: list[Generation] = []
        self._awake, self._stepping = threading.Condition(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._forgets = self._closed = False

    @property
    def n_waiting(self) -> int:
        """Requests that wait for a sequence."""
        return len(self._arrived) + len(self.scheduler.waiting)

    def submit(self, reply: Generation) -> None:
        """Let a reply take part in the batch.

        Raises:
            EngineBusy: too many are waiting already.
            EngineError: the engine is closed.
        """
        with self._awake:
            if self._closed:
                raise _closed()
            if self.n_waiting >= self.n_queue:
                raise EngineBusy(
                    f"{self.n_waiting} requests are waiting, as many as the engine keeps; try "
                    "again later, or open it with a larger n_queue."
                )
            self._arrived.append(reply)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="steerplug engine", daemon=True
                )
                self._thread.start()
            self._awake.notify()

    def cancel(self, reply: Generation) -> None:
        """Let a reply go; its sequence is free at the next step."""
        reply.cancelled = True

    def forget(self) -> None:
        """Let later requests find nothing of earlier ones."""
        self._forgets = True

    @property
    def is_closed(self) -> bool:
        """Whether it was told to end."""
        return self._closed

    def rest(self) -> None:
        """Wait for the step that is being made, and begin no other until `go_on`."""
        self._stepping.acquire()

    def go_on(self) -> None:
        """Go on after `rest`."""
        self._stepping.release()

    def close(self) -> None:
        """End all replies and free the context; what is being decoded is waited for."""
        with self._awake:
            self._closed, thread = True, self._thread
            self._awake.notify()
        if thread is None:
            self.context.close()
        elif thread is not threading.current_thread():  # the collector may call from anywhere
            thread.join()

    def _run(self) -> None:
        try:
            self.scheduler.cache.clear()
            while self._gather():
                with self._stepping:
                    self.scheduler.step()
            why: Callable[[], EngineError] = _closed
        except BaseException as error:
            _logger.exception("the engine's worker ended")
            reason = f"the engine stopped ({error!r}); send the request again, it starts anew."

            def why() -> EngineError:
                return EngineError(reason)

        with self._awake:
            left = [*self.scheduler.drop(), *self._arrived]
            self._thread, self._arrived = None, []
            if self._closed:
                self.context.close()
        for reply in left:
            reply.end(why())

    def _is_called(self) -> bool:
        """Whether anything but the batch is to be seen to."""
        return bool(self._arrived) or self._forgets or self._closed

    def _gather(self) -> bool:
        """Wait for work and take in what has arrived; return False once the engine is closed."""
        if self.scheduler and not self._is_called():
            return True  # the usual case between two tokens, which needs no lock
        with self._awake:
            if not (self._arrived or self.scheduler):
                threads.give_back()
            while not (self._arrived or self.scheduler or self._closed):
                self._awake.wait()
            if self._forgets:
                self._forgets = False
                self.scheduler.cache.forget()
            self.scheduler.waiting.extend(self._arrived)
            self._arrived = []
            return not self._closed


def _closed() -> EngineError:
    return EngineError("this context is closed; open the model again.")
