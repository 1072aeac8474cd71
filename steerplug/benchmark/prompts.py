"""The first token of a reply: with an instruction in the prompt, and steered by it instead.

What an instruction costs as a system message is what steering with it saves; both are asked through
the same engine, and of llama-cpp-python's own `Llama`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from steerplug.benchmark.gates import gates
from steerplug.benchmark.peers import PlainLlama
from steerplug.benchmark.turns import Task, Way
from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine import threads
from steerplug.engine.engine import Engine, Progress
from steerplug.engine.model import Model
from steerplug.engine.request import Request
from steerplug.engine.scope import Prompt
from steerplug.fit.teacher import prompted_chat
from steerplug.library.presets import load_preset
from steerplug.preset import Teacher
from steerplug.steering.value import NOTHING, Mix

N_CTX = 4096
INSTRUCTION = "pirate"
"""The shipped preset whose system message and examples the first token waits for."""

LONG = 600
"""Tokens of a long system message."""

STEERED, COLD, CACHED = "steered, no system prompt", "system prompt", "system prompt, cached"
PEER_COLD, PEER_CACHED = f"Llama, {COLD}", f"Llama, {CACHED}"


@contextmanager
def first_token(model: Model) -> Iterator[Task]:
    """The first token of a reply: steered, and with the instruction in the prompt instead."""
    template, teacher = ChatTemplate.of(model), _teacher()
    question, other = _question("Tell me about the sea."), _question("What is rain?")
    bare, steered = template.prompt(question), Mix.of(gates(model))
    long, before = (template.prompt(prompted_chat(teacher, chat)) for chat in (question, other))
    engine = Engine(model, n_ctx=N_CTX)
    llama = PlainLlama(model, N_CTX, engine.context.n_threads)

    def ask(prompt: Prompt, mix: Mix = NOTHING, held: Prompt | None = None) -> float:
        engine.forget()
        if held is not None:
            _first(engine, held)
        return _first(engine, prompt, mix).seconds_to_first

    def ask_llama(held: Prompt | None = None) -> float:
        llama.forget()
        if held is not None:
            llama.reply(held.tokens, 1)
        return _first_of_llama(llama, long)

    ways: dict[str, Way] = {
        STEERED: lambda: ask(bare, steered),
        CACHED: lambda: ask(long, held=before),
        COLD: lambda: ask(long),
        PEER_CACHED: lambda: ask_llama(before),
        PEER_COLD: ask_llama,
    }
    cells = {way: f"{len(bare.tokens if way == STEERED else long.tokens)} cells" for way in ways}
    try:
        yield Task("first token", ways, notes=cells)
    finally:
        engine.close()
        llama.close()


@contextmanager
def second_request(model: Model) -> Iterator[Task]:
    """The first token of a second request under a long system message, each with a new question.

    The notes say how many tokens of its prompt were read for it.
    """
    template, steered, numbers = ChatTemplate.of(model), Mix.of(gates(model)), count()
    system = (_teacher().system or "Answer briefly.").strip() + " "
    system *= -(-LONG // len(model.vocab.tokenize(system)))
    warm, cold = (Engine(model, n_ctx=N_CTX) for _ in range(2))
    llama = PlainLlama(model, N_CTX, warm.context.n_threads)
    notes = dict[str, str]()

    def question(under: str | None) -> Prompt:
        chat = _question(f"{next(numbers)} ships are at sea. How many are there?")
        return template.prompt(prompted_chat(Teacher(system=under), chat) if under else chat)

    def ask(way: str, engine: Engine, under: str | None, mix: Mix = NOTHING) -> float:
        progress = _first(engine, question(under), mix)
        n = progress.n_prompt
        notes[way] = f"{n - progress.n_cached} of {n} tokens"
        return progress.seconds_to_first

    def ask_cold() -> float:
        cold.forget()
        return ask(COLD, cold, system)

    ways: dict[str, Way] = {
        STEERED: lambda: ask(STEERED, warm, None, steered),
        CACHED: lambda: ask(CACHED, warm, system),
        COLD: ask_cold,
        PEER_CACHED: lambda: _first_of_llama(llama, question(system)),
    }
    try:
        yield Task("second request", ways, notes=notes)
    finally:
        warm.close()
        cold.close()
        llama.close()


def _teacher() -> Teacher:
    teacher = load_preset(INSTRUCTION).teacher
    assert teacher is not None
    return teacher


def _question(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _first(engine: Engine, prompt: Prompt, mix: Mix = NOTHING) -> Progress:
    progress = Progress()
    for _ in engine.generate(Request(prompt, mix, max_tokens=1), progress):
        pass
    return progress


def _first_of_llama(llama: PlainLlama, prompt: Prompt) -> float:
    start = time.perf_counter()
    llama.reply(prompt.tokens, 1)
    seconds = time.perf_counter() - start
    threads.give_back()
    return seconds
