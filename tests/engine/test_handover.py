"""Pieces of replies reach their readers in order, and wake them no more than needed."""

import asyncio
import threading
from collections.abc import Callable

from steerplug.engine.engine import Engine, Progress, Request
from steerplug.engine.generation import Item
from steerplug.engine.handover import at_the_end, to_loop
from steerplug.engine.request import Piece
from steerplug.engine.sampler import Sampling
from steerplug.engine.scope import Prompt


def pieces(text: str) -> list[Piece]:
    return [Piece(letter, i, 0.0) for i, letter in enumerate(text)]


def test_nothing_is_handed_over_before_the_end_and_all_of_it_then() -> None:
    read: list[Item] = []
    deliver = at_the_end(read.append)
    for piece in pieces("rain"):
        deliver(piece)
    assert read == []
    error = ValueError("no more")
    deliver(error)
    assert read == [*pieces("rain"), error]


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts how often another thread wakes it."""

    def __init__(self) -> None:
        super().__init__()
        self.woken = 0

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object, **kw: object):  # type: ignore[no-untyped-def]
        self.woken += 1
        return super().call_soon_threadsafe(callback, *args, **kw)  # type: ignore[arg-type]


def test_what_comes_together_for_one_loop_wakes_it_once_and_stays_in_order() -> None:
    loop, read = CountingLoop(), list[tuple[str, Item]]()
    readers = {name: to_loop(loop, lambda item, name=name: read.append((name, item)))  # type: ignore[misc]
               for name in "ab"}  # fmt: skip
    for a, b in zip(pieces("rain"), pieces("snow"), strict=True):
        readers["a"](a)
        readers["b"](b)
    assert loop.woken == 1
    assert read == []
    loop.run_until_complete(asyncio.sleep(0))
    assert [item for name, item in read if name == "a"] == pieces("rain")
    assert [item for name, item in read if name == "b"] == pieces("snow")
    readers["a"](None)
    assert loop.woken == 2
    loop.run_until_complete(asyncio.sleep(0))
    assert read[-1] == ("a", None)
    loop.close()


def test_nothing_is_lost_between_threads_however_they_interleave() -> None:
    async def read(n: int) -> list[Item]:
        inbox: asyncio.Queue[Item] = asyncio.Queue()
        deliver = to_loop(asyncio.get_running_loop(), inbox.put_nowait)
        sender = threading.Thread(target=lambda: [deliver(piece) for piece in pieces("x" * n)])
        sender.start()
        got = [await asyncio.wait_for(inbox.get(), 10) for _ in range(n)]
        sender.join()
        return got

    assert asyncio.run(read(20_000)) == pieces("x" * 20_000)


def test_a_loop_that_is_gone_troubles_nobody() -> None:
    loop, read = asyncio.new_event_loop(), list[Item]()
    deliver = to_loop(loop, read.append)
    loop.close()
    deliver(None)
    assert read == []


async def test_a_whole_reply_is_the_streamed_one_on_both_fronts(engine: Engine) -> None:
    prompt = Prompt((504, 5345, 282), has_bos=False)
    request = Request(prompt, sampling=Sampling(temperature=0.0), max_tokens=6)
    streamed = list(engine.generate(request))
    progress = Progress()
    reader = engine.generate(request, progress, whole=True)
    first = next(reader)
    assert progress.finish_reason == "length"  # it had ended before anything was read
    assert [first, *reader] == streamed
    assert [piece async for piece in engine.agenerate(request, whole=True)] == streamed
