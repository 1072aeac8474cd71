"""The last block of a `chain`: a planted gate is found by the slopes of what is predicted."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.engine.scope import Prompt
from steerplug.fit.chain import prediction
from steerplug.fit.chain.prediction import Head, fit_prediction, head_of
from steerplug.fit.measure import log_softmax
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import Array, Delta

N_EMBD, N_WORDS = 16, 40
RNG = np.random.default_rng(0)
WORDS = RNG.normal(size=(N_EMBD, N_WORDS)).astype(np.float32)
HEAD = Head(WORDS, np.linspace(0, 2, N_WORDS, dtype=np.float32))
READ, WRITTEN = RNG.normal(size=(2, N_EMBD)).astype(np.float32)


def normed(rows: Array) -> Array:
    return np.asarray(rows / np.sqrt((rows**2).mean(axis=1, keepdims=True)), np.float32)


def lessons_of(seed: int, n: int = 300) -> tuple[list[Array], list[Array]]:
    """Rows, and the same where a planted gate has acted."""
    rng = np.random.default_rng(seed)
    rows = [3 * rng.normal(size=(30, N_EMBD)).astype(np.float32) for _ in range(n)]
    gates = [np.maximum(normed(h) @ READ - 1, 0)[:, None] for h in rows]
    return rows, [h + gate * WRITTEN for h, gate in zip(rows, gates, strict=True)]


def steered(delta: Delta, rows: Array) -> Array:
    gates = np.maximum(normed(rows) @ delta.W.T + delta.b, 0)
    return np.asarray(rows + delta.z[0] + gates @ delta.Z, np.float32)


def test_a_planted_gate_is_found_by_what_it_does_to_the_prediction() -> None:
    delta = fit_prediction(HEAD, *lessons_of(0))
    rows, wanted = (np.concatenate(each) for each in lessons_of(1, 4))
    p = HEAD.probabilities(wanted)
    before, after = HEAD.loss(rows, p)[0], HEAD.loss(steered(delta, rows), p)[0]
    assert before > 0.2
    assert after < 0.25 * before
    assert (delta.n_units, delta.act, delta.norm) == (prediction.UNITS, "relu", "rms")


def test_slopes_are_those_of_the_loss() -> None:
    """By central differences along a random direction of each parameter."""
    (h, *_), (wanted, *_) = lessons_of(2, 1)
    p, rng = HEAD.probabilities(wanted), np.random.default_rng(3)
    shapes = {"W": (3, N_EMBD), "b": (3,), "Z": (3, N_EMBD)}
    now = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    slopes = prediction._slopes(HEAD, now, 0.5, h, p)

    def loss(name: str, moved: Array) -> float:
        return HEAD.loss(prediction._steered({**now, name: moved}, 0.5, h), p)[0]

    for name, slope in slopes.items():
        step = 1e-3 * rng.normal(size=slope.shape).astype(np.float32)
        found = (loss(name, now[name] + step) - loss(name, now[name] - step)) / 2
        assert found == pytest.approx(float((slope * step).sum()), rel=0.01, abs=1e-6)


def test_where_nothing_is_missing_nothing_is_added() -> None:
    rows, _ = lessons_of(0, 6)
    delta = fit_prediction(HEAD, rows, rows)
    assert not delta.Z.any()


def test_one_lesson_alone_is_learned_from_and_judges() -> None:
    rows, wanted = lessons_of(0, 1)
    p = HEAD.probabilities(wanted[0])
    after = HEAD.loss(steered(fit_prediction(HEAD, rows, wanted), rows[0]), p)[0]
    assert after < HEAD.loss(rows[0], p)[0]


@pytest.fixture(scope="module")
def reader(tiny_llama: Callable[..., Path]) -> Iterator[Reader]:
    with reading(Model(tiny_llama()), 64) as reader:
        yield reader


def test_the_head_says_what_llama_cpp_says(reader: Reader) -> None:
    """On rows that it was not regressed on."""
    rng = np.random.default_rng(0)
    texts = rng.integers(3, 96, (9, 50)).tolist()
    lessons = [Lesson(Prompt(tuple(t[:20])), Prompt(tuple(t[10:20])), tuple(t[20:])) for t in texts]
    head = head_of(reader, lessons[1:])
    h, logits = next(prediction._both_chats(reader, lessons[:1]))
    wanted = np.exp(log_softmax(logits))
    assert head.probabilities(h).shape == wanted.shape
    assert np.abs(head.probabilities(h) - wanted).max() < 0.01 * wanted.max()
