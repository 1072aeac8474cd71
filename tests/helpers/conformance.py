"""What steering must be on any architecture: each check runs a tiny model and compares.

Oracles: the model's own captures, llama.cpp's own control vectors, and runs of other shapes (token
by token, alone, without a cache) of the same tokens.
"""

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from steerplug.engine.capture import Capture, Given
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.hook import lay_out
from steerplug.engine.loading import Loading
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.engine.request import Piece, Request
from steerplug.engine.rows import Row
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Prompt
from steerplug.fit import activations, difference
from steerplug.fit.chain.chain import Chain, fit_chain
from steerplug.fit.distill.agreement import agreement
from steerplug.fit.distill.distill import distill, student_of
from steerplug.fit.distill.student import Passage, Student
from steerplug.fit.measure import reply_log_probs
from steerplug.fit.progress import at_once, silent
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import Array, Delta, Mix, Steering
from tests.helpers.tiny_models import tiny_model

# isort: split
from llama_cpp import llama_cpp as llama

N_CTX = 512
ROUNDING = 5e-3
"""Keys and values of 16 bits, and batches of other shapes, change logits by some 1e-4 of them."""

STUDENT = 5e-3
"""ggml looks GELU up by 16 bits, which moves a model of 22 blocks by 3e-3; others by some 1e-5."""

NO_VECTORS = {"hy_v4", "nemotron_h", "nemotron_h_moe", "plamo2", "qwen4exp"}
"""Architectures whose graphs in llama.cpp heed no control vectors of its own, or elsewhere."""

NEED_THE_FIRST = {"rwkv7"}
"""Architectures whose blocks need more of block 0 than what left the one below."""


@contextmanager
def opened(name: str) -> Iterator[Model]:
    """Give a tiny model, closed in the end."""
    model = Model(tiny_model(name))
    try:
        yield model
    finally:
        model.close()


@contextmanager
def context_on(model: Model, **settings: Any) -> Iterator[Context]:
    context = Context(model, n_ctx=N_CTX, n_batch=64, n_threads=1, **settings)
    try:
        yield context
    finally:
        context.close()


@functools.cache
def words(model: Model, seed: int = 0, n: int = 24) -> tuple[int, ...]:
    """Some tokens, more than any window of the tiny models is wide."""
    rng = np.random.default_rng(seed)
    return (*model.vocab.start, *rng.integers(20, model.vocab.n_tokens, n - 1).tolist())


def constants(model: Model, blocks: Sequence[int], seed: int = 0) -> Steering:
    """A random constant at some blocks, about as long as activations are."""
    rng = np.random.default_rng(seed)
    return Steering(
        "constants",
        model.n_embd,
        model.n_layer,
        {il: Delta.constant(rng.standard_normal(model.n_embd, np.float32)) for il in blocks},
    )


def run(
    context: Context,
    tokens: Sequence[int],
    mix: Mix | None = None,
    capture: Sequence[int] = (),
    size: int | None = None,
    **watched: bool,
) -> tuple[Array, Array | None]:
    """Decode some tokens anew; return the logits of all, and what leaves some blocks."""
    context.clear()
    row_steering = lay_out(mix) if mix else None
    rows = [Row(token, i, output=True, steering=row_steering) for i, token in enumerate(tokens)]
    size = size or len(rows)
    logits, captured = [], None
    for begin in range(0, len(rows), size):
        batch = rows[begin : begin + size]
        wanted = Capture(capture, range(len(batch))) if capture else None
        captured = context.decode(batch, wanted, **watched)
        logits += [context.logits(i) for i in range(len(batch))]
    return np.stack(logits), captured


def far(a: Array, b: Array) -> float:
    """Return |a - b| / |b|."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def steering_is_exact(model: Model) -> None:
    """At every block, h becomes h + z; all above and the logits follow."""
    tokens, blocks = words(model), range(model.n_layer)
    with context_on(model) as context:
        plain, before = run(context, tokens, capture=blocks)
        assert before is not None
        for il in blocks:
            steering = constants(model, [il])
            logits, after = run(context, tokens, 1.0 * steering, blocks)
            assert after is not None
            assert np.array_equal(after[:il], before[:il]), f"block {il} moves one below"
            moved = before[il] + steering.layers[il].z[0]
            if model.block_output.mean:
                assert far(after[il], moved) < 1e-6, f"block {il}"
            else:
                assert np.array_equal(after[il], moved), f"block {il}"
            assert (logits != plain).any(), f"block {il} does not reach the logits"


def strength_0_is_nothing(model: Model) -> None:
    """Bit for bit what llama.cpp computes without a hook."""
    tokens = words(model)
    with context_on(model, hooked=False) as bare, context_on(model) as context:
        plain, _ = run(bare, tokens)
        zero, _ = run(context, tokens, 0.0 * constants(model, range(model.n_layer)), watch_all=True)
        assert np.array_equal(plain, zero)


def steering_is_llama_cpps(model: Model) -> None:
    """Constants at all blocks but the first are llama.cpp's own control vectors, bit for bit."""
    if model.architecture in NO_VECTORS:
        return
    tokens, steering = words(model), constants(model, range(1, model.n_layer))
    vectors = np.stack([delta.z[0] for delta in steering.layers.values()])
    with context_on(model, hooked=False) as bare, context_on(model) as context:
        plain, _ = run(bare, tokens)
        data = vectors.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert not llama.llama_set_adapter_cvec(
            bare.handle, data, vectors.size, model.n_embd, 1, model.n_layer - 1
        )
        oracle, _ = run(bare, tokens)
        steered, _ = run(context, tokens, 1.0 * steering)
    assert not np.array_equal(oracle, plain)
    assert np.array_equal(steered, oracle)


def all_ways_are_one(model: Model) -> None:
    """By callback, and by get and set as on a GPU, steering is that of the graph to the bit.

    What a device computes by itself is the same within rounding.
    """
    tokens, mix = words(model), 1.0 * constants(model, range(model.n_layer))
    with context_on(model) as context:
        graph, _ = run(context, tokens, mix)
        context.hook.in_graph = False
        assert np.array_equal(run(context, tokens, mix)[0], graph), "by callback"
    with context_on(model, on_host=False, on_device=False) as context:
        assert np.array_equal(run(context, tokens, mix)[0], graph), "by get and set"
    with context_on(model, on_device=True) as context:
        assert far(run(context, tokens, mix)[0], graph) < ROUNDING, context.route


def a_block_stands_for_those_below(model: Model) -> None:
    """What left a block is given: all above it are computed as from the text, to the bit."""
    if model.architecture in NEED_THE_FIRST:
        return
    tokens, blocks = words(model), range(model.n_layer)
    rows = [Row(token, i, output=True) for i, token in enumerate(tokens)]
    with context_on(model) as context:
        logits, left = run(context, tokens, capture=blocks)
        assert left is not None
        for il in blocks[:-1] if context.hook.takes_given else ():
            context.clear()
            wanted = Capture(blocks[il:], range(len(rows)), given=Given(il, left[il]))
            captured = context.decode(rows, wanted)
            assert captured is not None
            assert np.array_equal(captured, left[il:]), f"block {il}"
            assert np.array_equal(context.logits(len(rows) - 1), logits[-1]), f"block {il}"


def pieces_are_the_whole(model: Model) -> None:
    """A text read at once, steered or not, is the text read token by token."""
    tokens, mix = words(model), 1.0 * constants(model, [model.n_layer // 2])
    with context_on(model) as context:
        for what in (None, mix):
            whole, _ = run(context, tokens, what)
            for size in (1, 7):
                pieces, _ = run(context, tokens, what, size=size)
                assert far(pieces, whole) < ROUNDING, f"pieces of {size}"


def requests_are_alone(model: Model) -> None:
    """Requests answered at once, each steered in its own way, are answered as alone."""
    requests = [
        _request(words(model, seed), 1.0 * constants(model, [1], seed)) for seed in range(3)
    ]
    with _engine_on(model) as engine:
        alone = []
        for request in requests:
            engine.forget()
            alone.append(list(engine.generate(request)))
        engine.forget()
        together = at_once(
            lambda i: list(engine.generate(requests[i])), range(len(requests)), "asking", silent
        )
    for one, other in zip(alone, together, strict=True):
        _check_same(one, other)


def batches_are_alone(model: Model) -> None:
    """Two sequences of one batch, each steered in its own way, are what they are alone."""
    if model.is_recurrent:
        return  # one row of each at a time: the scheduler's business, see `requests_are_alone`
    texts = [words(model, seed) for seed in (1, 2)]
    mixes = [1.0 * constants(model, [1], seed) for seed in (1, 2)]
    with context_on(model, n_seq=2) as context:
        alone = [run(context, text, mix)[0] for text, mix in zip(texts, mixes, strict=True)]
        context.clear()
        context.decode([
            Row(texts[seq][i], i, output=True, steering=lay_out(mixes[seq]), sequence=seq)
            for i in range(len(texts[0])) for seq in (0, 1)
        ])  # fmt: skip
        for seq in (0, 1):
            both = np.stack([context.logits(2 * i + seq) for i in range(len(texts[0]))])
            assert far(both, alone[seq]) < ROUNDING


def a_second_turn_is_as_fresh(model: Model) -> None:
    """A chat that goes on from what is cached is answered as if nothing were."""
    mix = 1.0 * constants(model, [model.n_layer // 2])
    with _engine_on(model) as engine:
        first = words(model)
        reply = [piece.token for piece in engine.generate(_request(first, mix)) if piece.token]
        second = _request((*first, *reply, *words(model, 5)[1:]), mix, len(first))
        cached = list(engine.generate(second))
        engine.forget()
        _check_same(cached, list(engine.generate(second)))


@contextmanager
def _exact(model: Model) -> Iterator[Model]:
    """The model, rounding little: flash attention sums up in 16 bits, by batches of any shape."""
    exact = Model(model.path, Loading(type_k="f32", type_v="f32", flash_attn="off"))
    try:
        yield exact
    finally:
        exact.close()


@contextmanager
def _engine_on(model: Model) -> Iterator[Engine]:
    """An engine that rounds little."""
    with _exact(model) as exact:
        engine = Engine(exact, n_ctx=N_CTX, n_threads=1)
        try:
            yield engine
        finally:
            engine.close()


def _request(tokens: Sequence[int], mix: Mix, begin: int | None = None) -> Request:
    """Ask for a few greedy tokens; from `begin` on the prompt is an earlier reply."""
    spans = () if begin is None else ((begin - 1, begin + 6),)
    return Request(
        Prompt(tuple(tokens), spans), mix, Sampling(temperature=0.0), max_tokens=6, logprobs=3
    )


def _check_same(one: Sequence[Piece], other: Sequence[Piece]) -> None:
    """Compare log-probabilities up to where two replies part, which only a tie may bring about."""
    for a, b in zip(one, other, strict=False):
        assert a.logprobs is not None
        assert b.logprobs is not None
        assert abs(a.logprobs.logprob - b.logprobs.logprob) < 0.005
        if a.token != b.token:
            break


def lessons(model: Model, n: int = 4) -> list[Lesson]:
    """Chats after an instruction and without it, and replies, all of random tokens."""
    start, instruction = model.vocab.start, words(model, 50)
    made = []
    for seed in range(n):
        asked, reply = words(model, 100 + seed, 8)[1:], words(model, 200 + seed, 10)[1:]
        made.append(
            Lesson(
                Prompt((*instruction, *asked), has_bos=bool(start)),
                Prompt((*start, *asked), has_bos=bool(start)),
                reply,
            )
        )
    return made


def mean_fits(model: Model) -> None:
    """The difference of means steers towards the prompted model."""
    with reading(model, N_CTX) as reader:
        rows = activations.of_lessons(reader, lessons(model), [1, model.n_layer - 2])
        found = difference.mean(rows)
    expected = (rows.positive - rows.negative).mean(axis=0)
    assert all(np.abs(z).max() > 0 for z in found.values())
    assert np.array_equal(np.stack(list(found.values())), expected)


def chain_fits(model: Model) -> None:
    """A chain of blocks is fitted, the last among them, and steers."""
    blocks = sorted({1, model.n_layer - 2, model.n_layer - 1})
    chain = Chain("chained", model.n_embd, model.n_layer, "response")
    with reading(model, N_CTX) as reader:
        steering = fit_chain(chain, reader, lessons(model), blocks)
    assert list(steering.layers) == blocks
    with context_on(model) as context:
        plain, _ = run(context, words(model))
        steered, _ = run(context, words(model), 1.0 * steering)
    assert (plain != steered).any()
    assert np.isfinite(steered).all()


def psr_fits(model: Model) -> None:
    """What torch computes of llama.cpp's graph is what llama.cpp does, and gates train by it."""
    with _exact(model) as exact, reading(exact, N_CTX) as reader:
        copy = Student(exact, N_CTX, torch.device("cpu"))
        assert agreement(copy, exact, reader).error < STUDENT
        assert _steered_apart(copy, exact, reader) < STUDENT
    with reading(model, N_CTX) as reader:
        student = student_of("gated", "psr", model, reader)
        steering = distill(
            "gated", model, student, lessons(model), [1], method="psr", scope="response"
        )
    assert np.isfinite(steering.layers[1].Z).all()


def _steered_apart(copy: Student, model: Model, reader: Reader) -> float:
    """Return how far the copy, steered behind a prefix, is from llama.cpp, steered alike."""
    steering, (lesson,) = constants(model, [1]), lessons(model, 1)
    (p,) = reply_log_probs(reader, lesson.bare, lesson.reply, [1.0 * steering])
    unsteered, n = lesson.bare.tokens[:-1], len(lesson.bare.tokens) - 1
    z = torch.tensor(steering.layers[1].z[0])
    with torch.no_grad():
        (prefix,) = copy.prefixes([unsteered])
        passage = Passage(prefix, (*lesson.bare.tokens[n:], *lesson.reply), 0)
        hidden = copy.hidden([passage], lambda _: copy.at_blocks(lambda _il, _h: z, [1]))
        q = torch.log_softmax(copy.logits(hidden).float(), -1).numpy()
    return float(np.median([far(b, a) for a, b in zip(p, q, strict=True)]))


CHECKS: dict[str, Callable[[Model], None]] = {
    "exact": steering_is_exact,
    "strength 0": strength_0_is_nothing,
    "as llama.cpp": steering_is_llama_cpps,
    "all ways": all_ways_are_one,
    "given": a_block_stands_for_those_below,
    "token by token": pieces_are_the_whole,
    "two sequences": batches_are_alone,
    "side by side": requests_are_alone,
    "second turn": a_second_turn_is_as_fresh,
    "mean": mean_fits,
    "chain": chain_fits,
    "psr": psr_fits,
}

