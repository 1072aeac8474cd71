"""Random requests from 8 threads: whatever else goes on, each reply is what it would be alone.

A shortened run by default; in full: `STEERPLUG_SOAK=1000 pytest tests/engine/test_soak.py`.
"""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import pytest

from steerplug.engine import scope
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine, Piece, Progress, Request
from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.model import Model
from steerplug.engine.sampler import Sampling
from steerplug.engine.scope import Prompt
from steerplug.errors import ContextOverflow, EngineError, RequestError
from steerplug.steering.value import NOTHING, Mix
from tests.helpers.alone import (
    NOISE,
    chat,
    check_accounts,
    far_from_alone,
    steering,
    unlike_alone,
    until,
)
from tests.helpers.tiny_models import tiny_model

N_REQUESTS = int(os.environ.get("STEERPLUG_SOAK", "48"))
N_THREADS = 8
FAR = 10 * NOISE
QUESTIONS = ("What is a cat?", "Name three colours.", "Tell me about the sea.", "Who are you?")
IMPOSSIBLE = {"allOf": [{"type": "string"}, {"type": "integer"}]}


@dataclass
class Made:
    """A reply that was read to its end."""

    request: Request
    pieces: list[Piece]
    progress: Progress


class Client:
    """One thread of the soak: asks one thing after the other, as its seed says."""

    def __init__(self, engine: Engine, mixes: list[Mix], seed: int) -> None:
        self.engine, self.mixes, self.random = engine, mixes, random.Random(seed)
        self.made: list[Made] = []
        self.whole: list[Made] = []
        self.done: dict[str, int] = {}
        self.turns = [self.random.choice(QUESTIONS)]
        self.error: BaseException | None = None

    def run(self, n: int) -> None:
        ways = [self.read, self.read, self.go_on, self.read_whole, self.leave, self.overflow,
                self.ask_in_vain, self.overdo]
        try:
            for _ in range(n):
                way = self.random.choice(ways)
                way()
                self.done[way.__name__] = self.done.get(way.__name__, 0) + 1
        except BaseException as error:
            self.error = error

    def request(self) -> Request:
        return Request(
            chat(self.engine.model, *self.turns),
            self.random.choice(self.mixes),
            Sampling(self.random.choice([0.0, 1.0]), seed=self.random.randrange(1000)),
            max_tokens=self.random.randint(1, 10),
            logprobs=20,
        )

    def read(self) -> Made:
        """A question of its own, read to the end."""
        self.turns = [self.random.choice(QUESTIONS)]
        return self.go_on()

    def go_on(self) -> Made:
        """The next turn of the conversation."""
        request, progress = self.request(), Progress()
        pieces = list(self.engine.generate(request, progress))
        self.made.append(Made(request, pieces, progress))
        said = "".join(piece.text for piece in pieces)
        self.turns += [said, self.random.choice(QUESTIONS)]
        if len(self.turns) > 5:
            self.turns = [self.random.choice(QUESTIONS)]
        return self.made[-1]

    def read_whole(self) -> None:
        """A greedy reply that nobody waits to see: what runs beside it may decode on with it."""
        request = replace(self.request(), sampling=Sampling(0.0), logprobs=None)
        pieces = list(self.engine.generate(request, progress := Progress(), whole=True))
        self.whole.append(Made(request, pieces, progress))

    def leave(self) -> None:
        """A reply that is left in the middle."""
        with closing(self.engine.generate(replace(self.request(), max_tokens=50))) as reply:
            for _ in range(self.random.randint(0, 4)):
                next(reply, None)

    def overflow(self) -> None:
        with pytest.raises(ContextOverflow):
            list(self.engine.generate(Request(Prompt((5,) * 5000))))

    def ask_in_vain(self) -> None:
        """A schema that cannot be followed."""
        with pytest.raises(RequestError, match="cannot be followed"):
            list(self.engine.generate(replace(self.request(), grammar=IMPOSSIBLE)))

    def overdo(self) -> None:
        """Steering beyond all measure."""
        with pytest.raises(EngineError, match="infinite"):
            list(self.engine.generate(replace(self.request(), mix=1e30 * self.mixes[1])))


@pytest.fixture(scope="module")
def model(quick_model: Model) -> Model:
    """The model as it reads quickest: most of the time goes into what each reply is alone."""
    return quick_model


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    context = Context(model, n_ctx=512, n_batch=128, n_seq=2, n_threads=1)
    yield context
    context.close()


@pytest.fixture(scope="module")
def mixes(model: Model) -> list[Mix]:
    a, b = steering(model, 1), steering(model, 2)
    return [NOTHING, a, b, 0.5 * a - b, steering(model, 3, "all"), steering(model, 4, "front")]


@pytest.fixture
def small_engine(model: Model) -> Iterator[Engine]:
    """So few cells and sequences that replies are sent back and cells given up all the time."""
    engine = Engine(model, n_ctx=384, n_seq=6, n_threads=1)
    yield engine
    engine.close()


def test_every_reply_of_a_crowd_is_what_it_is_alone(
    small_engine: Engine, mixes: list[Mix], context: Context
) -> None:
    check_crowd(small_engine, mixes, context)


@pytest.mark.parametrize("name", ["qwen35", "mamba2", "gpt_oss"])
def test_so_it_is_where_sequences_cannot_be_cut_back(name: str) -> None:
    """A hybrid, a running state alone, and sliding windows."""
    check_tiny_crowd(name, n_ctx=384 if name == "mamba2" else 1024, can_be_cut=False)


def check_tiny_crowd(name: str, n_ctx: int, *, can_be_cut: bool) -> None:
    model = Model(tiny_model(name))
    layers = range(model.n_layer)
    a, b = (steering(model, seed, size=30.0, layers=layers) for seed in (1, 2))
    mixes = [NOTHING, a, b, 0.5 * a - b, steering(model, 3, "all", 30.0, layers),
             steering(model, 4, "front", 30.0, layers)]
    with closing(Engine(model, n_ctx=n_ctx, n_seq=6, n_threads=1)) as engine:
        assert engine.context.can_be_cut == can_be_cut
        context = Context(model, n_ctx=n_ctx, n_threads=1)
        check_crowd(engine, mixes, context)
        context.close()
    model.close()


def check_crowd(small_engine: Engine, mixes: list[Mix], context: Context) -> None:
    clients = [Client(small_engine, mixes, seed) for seed in range(N_THREADS)]
    threads = [threading.Thread(target=client.run, args=(N_REQUESTS // N_THREADS,))
               for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # on a device that software plays a token may take seconds
            before = [client.done.copy() for client in clients]
            thread.join(300)
            assert not thread.is_alive() or [client.done for client in clients] != before
    for client in clients:
        if client.error:
            raise client.error
    until(lambda: small_engine.metrics().n_running == 0)
    check_accounts(small_engine)
    made = [reply for client in clients for reply in client.made]
    assert len(made) > N_REQUESTS // 4
    assert sum(reply.progress.n_cached for reply in made) > 0
    for reply in made:
        request = reply.request
        if not reply.progress.n_generated:  # it ended with its first token, which tells nothing
            continue
        far = far_from_alone(context, request.prompt, request.mix, reply.pieces)
        assert far < NOISE, (request.mix.terms, far)
        assert (reply.progress.n_steered > 0) == bool(request.mix)
    whole = [reply for client in clients for reply in client.whole if reply.progress.n_generated]
    assert whole
    for reply in whole:
        tokens = [piece.token for piece in reply.pieces if piece.token is not None]
        unlike = unlike_alone(context, reply.request.prompt, reply.request.mix, tokens)
        assert unlike < FAR, (reply.request.mix.terms, unlike)


def test_a_planted_wrong_cache_hit_is_far_beyond_the_noise(
    model: Model, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one key for all steering, tokens alone are compared."""

    def lay_out_with_one_key(mix: Mix, position: int = 0) -> RowSteering | None:
        row_steering = lay_out(mix, position)
        return replace(row_steering, key="always the same") if row_steering else None

    talk = chat(
        model, "Name a colour.", "My favourite colour is a deep, deep blue, as of the sea in the "
        "evening, when the wind is gone and the boats come home.", "Why?",
    )  # fmt: skip
    first, second = (
        Request(talk, steering(model, seed, "all"), Sampling(temperature=0), max_tokens=6,
                logprobs=20)
        for seed in (1, 2)
    )  # fmt: skip

    def far(n_cached: int) -> float:
        """How far the second reply of a new engine is from what it should be."""
        with closing(Engine(model, n_ctx=512, n_threads=1)) as engine:
            list(engine.generate(first))
            pieces = list(engine.generate(second, progress := Progress()))
        assert progress.n_cached == n_cached
        return float(far_from_alone(context, talk, second.mix, pieces))

    assert far(n_cached=1) < 1e-3
    with monkeypatch.context() as patch:
        patch.setattr(scope, "lay_out", lay_out_with_one_key)
        wrong = far(n_cached=len(talk.tokens) - 1)
    assert wrong > FAR
