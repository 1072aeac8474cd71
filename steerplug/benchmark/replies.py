"""Whole replies through the batch engine: one alone, and sixteen at once."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

from steerplug.benchmark.gates import gates
from steerplug.benchmark.peers import PlainLlama, repeng_decode
from steerplug.benchmark.turns import Task, Way
from steerplug.chat.template import ChatTemplate
from steerplug.engine import threads
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Progress
from steerplug.engine.model import Model
from steerplug.engine.request import Request, tokens_of
from steerplug.engine.rows import Row
from steerplug.engine.sampler import Sampler
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.steering.value import NOTHING, Mix

REPLY, REPLIES, CROWD, N_CTX = 64, 2, 16, 4096
RAW, ALONE, ALONE_STEERED = "llama.cpp, low level", "engine, unsteered", "engine, steered"
STREAMED = "engine, read token by token"
REPENG = "repeng on transformers"
AT_ONCE, MIXES, ONE_BY_ONE = "unsteered", "16 different mixes", "Llama, one by one"


@contextmanager
def reply(model: Model) -> Iterator[Task]:
    """One reply of 64 tokens: llama.cpp's own loop, the engine, the engine steered."""
    prompt, steered = _asked(model, "Write a long story about the sea."), Mix.of(gates(model))
    with closing(_Both(model)) as both:
        ways: dict[str, Way] = {
            RAW: lambda: _by_hand(both.context, prompt),
            ALONE: lambda: _alone(both.engine, prompt, NOTHING),
            ALONE_STEERED: lambda: _alone(both.engine, prompt, steered),
            STREAMED: lambda: _alone(both.engine, prompt, NOTHING, whole=False),
        }
        peer = repeng_decode(model, REPLY // 4)
        if peer is None:
            yield Task("reply", ways, REPLIES, both.renew, left_out=(REPENG,))
        else:
            yield Task("reply", {**ways, REPENG: peer}, REPLIES, both.renew)


class _Both:
    """An engine, and a context without one; new in each round, as `decode` says why."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._open()

    def _open(self) -> None:
        self.engine = Engine(self._model, n_ctx=N_CTX)
        self.context = Context(self._model, n_ctx=N_CTX, hooked=False)

    def renew(self) -> None:
        """Take others."""
        self.close()
        self._open()

    def close(self) -> None:
        """Free both."""
        self.engine.close()
        self.context.close()


def _by_hand(context: Context, prompt: Prompt) -> float:
    """Decode and sample as a program in C would, with nothing around it."""
    context.clear()
    sampler = Sampler(Sampling(temperature=0.0), context.model.vocab.n_tokens)
    n = len(prompt.tokens)
    context.decode([Row(token, i, i == n - 1) for i, token in enumerate(prompt.tokens)])
    token = sampler.draw(context, n - 1)
    start = time.perf_counter()
    for i in range(REPLY):
        context.decode([Row(token, n + i, output=True)])
        token = sampler.draw(context, 0)
    seconds = (time.perf_counter() - start) / REPLY
    threads.give_back()
    return seconds


def _alone(engine: Engine, prompt: Prompt, mix: Mix, *, whole: bool = True) -> float:
    engine.forget()
    request = Request(prompt, mix, Sampling(temperature=0.0), max_tokens=REPLY + 1)
    progress = Progress()
    for _ in engine.generate(request, progress, whole=whole):
        pass
    return (progress.seconds - progress.seconds_to_first) / (progress.n_generated - 1)


@contextmanager
def crowd(model: Model) -> Iterator[Task]:
    """Sixteen requests of 64 tokens: at once through the engine, and one by one without it."""
    engine = Engine(model, n_ctx=N_CTX)
    llama = PlainLlama(model, N_CTX, engine.context.n_threads)
    prompts = [_asked(model, f"Write a long story about {i + 2} sailors.") for i in range(CROWD)]
    some = [gates(model, seed) for seed in range(CROWD // 2)]
    mixes = [0.5 * some[i % len(some)] + (i + 1) / CROWD * some[i // 2] for i in range(CROWD)]
    ways: dict[str, Way] = {
        AT_ONCE: lambda: _at_once(engine, prompts, [NOTHING] * CROWD),
        MIXES: lambda: _at_once(engine, prompts, mixes),
        ONE_BY_ONE: lambda: _one_by_one(llama, prompts),
    }
    try:
        yield Task("crowd", ways)
    finally:
        engine.close()
        llama.close()


def _at_once(engine: Engine, prompts: Sequence[Prompt], mixes: Sequence[Mix]) -> float:
    def ask(i: int) -> int:
        sampling = Sampling(temperature=1.0, seed=i)
        request = Request(prompts[i], mixes[i], sampling, max_tokens=REPLY)
        return len(tokens_of(engine.generate(request)))

    engine.forget()
    with ThreadPoolExecutor(len(prompts)) as pool:
        start = time.perf_counter()
        n = sum(pool.map(ask, range(len(prompts))))
        return (time.perf_counter() - start) / n


def _one_by_one(llama: PlainLlama, prompts: Sequence[Prompt]) -> float:
    llama.forget()
    start = time.perf_counter()
    n = sum(llama.reply(prompt.tokens, REPLY, seed) for seed, prompt in enumerate(prompts))
    seconds = (time.perf_counter() - start) / n
    threads.give_back()
    return seconds


def _asked(model: Model, text: str) -> Prompt:
    """Return a chat that asks this, or the text itself where the model cannot chat."""
    if model.chat_template:
        template = ChatTemplate.of(model)
        return template.prompt([{"role": "user", "content": text}])
    vocab = model.vocab
    bos = (vocab.bos,) if vocab.adds_bos else ()
    return Prompt((*bos, *vocab.tokenize(text)), has_bos=bool(bos))
