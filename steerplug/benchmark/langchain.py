"""What LangChain's layer costs, and a batch through it beside the chat model that it replaces.

All replies are greedy, and nothing is cached before a turn. A chat model shares its session with
all that name the same model, so the session asked here by itself is the chat model's own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from steerplug.benchmark.peers import PlainChat
from steerplug.benchmark.replies import CROWD, N_CTX, REPLY
from steerplug.benchmark.turns import Task, Way
from steerplug.engine import threads
from steerplug.engine.model import Model
from steerplug.langchain.chat_model import ChatSteerplug
from steerplug.session import Session
from steerplug.session.shared import forget_sessions, session_for

CHAT, STREAMED_CHAT = "session's chat", "session's chat, streamed"
INVOKE, STREAM, AINVOKE = "invoke", "stream", "ainvoke"
BATCH, PEER = "ChatSteerplug, batch", "ChatLlamaCpp of langchain-community, one by one"


@contextmanager
def layer(model: Model) -> Iterator[Task]:
    """One reply of 64 tokens: of the session, and through LangChain."""
    text = "Write a long story about the sea."
    with _chat_model(model) as (chat, session), asyncio.Runner() as loop:
        asked, settings = [{"role": "user", "content": text}], chat.settings()
        n = session.chat(asked, None, settings).usage.completion_tokens

        def timed(answer: Callable[[], object]) -> Way:
            return lambda: _seconds(session, answer) / n

        yield Task("langchain", {
            CHAT: timed(lambda: session.chat(asked, None, settings)),
            STREAMED_CHAT: timed(lambda: _read(session.stream_chat(asked, None, settings))),
            INVOKE: timed(lambda: chat.invoke(text)),
            STREAM: timed(lambda: _read(chat.stream(text))),
            AINVOKE: timed(lambda: loop.run(chat.ainvoke(text))),
        })  # fmt: skip


@contextmanager
def batch(model: Model) -> Iterator[Task]:
    """Sixteen replies of 64 tokens at once, and a quarter of them by a chat model that cannot."""
    texts = [f"Write a long story about {i + 2} sailors." for i in range(CROWD)]
    with _chat_model(model) as (chat, session):
        peer = PlainChat.of(model, N_CTX, session.engine.context.n_threads, REPLY)

        def at_once() -> float:
            replies: list[str] = []
            seconds = _seconds(
                session, lambda: replies.extend(reply.text for reply in chat.batch([*texts]))
            )
            return seconds / _n_tokens(model, replies)

        def one_by_one(peer: PlainChat) -> float:
            peer.forget()
            start = time.perf_counter()
            replies = [peer.reply(text) for text in texts[: CROWD // 4]]
            seconds = time.perf_counter() - start
            threads.give_back()
            return seconds / _n_tokens(model, replies)

        try:
            if peer is None:
                yield Task("langchain batch", {BATCH: at_once}, left_out=(PEER,))
            else:
                ways: dict[str, Way] = {BATCH: at_once, PEER: lambda: one_by_one(peer)}
                yield Task("langchain batch", ways)
        finally:
            if peer is not None:
                peer.close()


@contextmanager
def _chat_model(model: Model) -> Iterator[tuple[ChatSteerplug, Session]]:
    path, loading = str(model.path), replace(model.loading, n_ctx=N_CTX)
    chat = ChatSteerplug(model=path, temperature=0, max_tokens=REPLY, **vars(loading))
    try:
        yield chat, session_for(path, loading)
    finally:
        forget_sessions()


def _seconds(session: Session, answer: Callable[[], object]) -> float:
    session.engine.forget()
    start = time.perf_counter()
    answer()
    return time.perf_counter() - start


def _read(stream: Iterator[object]) -> None:
    deque(stream, maxlen=0)


def _n_tokens(model: Model, texts: list[str]) -> int:
    """Return how many tokens replies have; the other chat model does not tell."""
    return sum(len(model.vocab.tokenize(text)) for text in texts)
