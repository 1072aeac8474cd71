"""Several replies as one stream of events; closing it ends them all."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.types import Receive

from steerplug.session import Event

T = TypeVar("T")

Source = AsyncGenerator[Event, None]
Numbered = tuple[int, Event]
"""Which reply, and what it says next."""


async def together(sources: Sequence[Source]) -> AsyncGenerator[Numbered, None]:
    """Yield the events of several replies as they come; the first error ends them all."""
    if len(sources) == 1:
        async with aclosing(sources[0]) as events:
            async for event in events:
                yield 0, event
        return
    inbox: asyncio.Queue[Numbered | BaseException | None] = asyncio.Queue()
    tasks = [asyncio.create_task(_pour(i, one, inbox)) for i, one in enumerate(sources)]
    try:
        running = len(tasks)
        while running:
            item = await inbox.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pour(
    i: int, source: Source, inbox: "asyncio.Queue[Numbered | BaseException | None]"
) -> None:
    try:
        async with aclosing(source) as events:
            async for event in events:
                inbox.put_nowait((i, event))
        inbox.put_nowait(None)
    except Exception as error:
        inbox.put_nowait(error)


async def begun(events: AsyncGenerator[T, None], patience: float) -> AsyncGenerator[T, None]:
    """Return the same events once the first is there, or on its way for so many seconds.

    What cannot be answered at all is so refused before a stream begins, with its own status.
    """
    first = asyncio.ensure_future(anext(events))
    try:
        await asyncio.wait({first}, timeout=patience)
        if first.done():
            first.exception()  # noted; raised below
            if first.exception() is not None:
                await first
    except BaseException:
        await _drop(first, events)
        raise
    return _going_on(first, events)


async def _going_on(
    first: "asyncio.Future[T]", events: AsyncGenerator[T, None]
) -> AsyncGenerator[T, None]:
    try:
        yield await first
        async for event in events:
            yield event
    finally:
        await _drop(first, events)


async def _drop(first: "asyncio.Future[T]", events: AsyncGenerator[T, None]) -> None:
    first.cancel()
    with suppress(BaseException):
        await first
    await events.aclose()


async def unless_gone(receive: Receive, answer: Coroutine[Any, Any, T]) -> T | None:
    """Return the answer, or None if the client hangs up first, which ends the work on it."""
    working = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
