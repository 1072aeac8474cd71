"""Measurements of steering: against torch, at both ends of the scale, and on toys.

The model is the real one for what has to hold on it, and a fake whose log-probabilities are planted
for what has to come out as an exact number.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.rows import Row
from steerplug.engine.scope import Prompt
from steerplug.errors import FitError
from steerplug.fit import measure
from steerplug.fit.measure import Probe
from steerplug.fit.teacher import Lesson
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Steering
from tests.helpers.tiny_models import tiny_model

N_VOCAB = 40
NO_READER = cast(Reader, None)


def log_softmax(logits: Any) -> NDArray[np.float64]:
    result: NDArray[np.float64] = torch.log_softmax(
        torch.from_numpy(np.asarray(logits, np.float64)), dim=-1
    ).numpy()
    return result


def divergence(p: Any, q: Any) -> float:
    """Sum over rows of KL(p || q), both given as log-probabilities."""
    p, q = (torch.from_numpy(np.asarray(x, np.float64)) for x in (p, q))
    return float(torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True))


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_log_softmax_is_that_of_torch(scale: float) -> None:
    logits = (scale * np.random.default_rng(1).standard_normal((5, N_VOCAB))).astype(np.float32)
    logits += np.float32(scale)
    found = measure.log_softmax(logits)
    assert found.dtype == np.float32
    expected = log_softmax(logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, rtol=1e-5)


# Planted log-probabilities


def distributions(seed: int, n_rows: int) -> Array:
    logits = 2 * np.random.default_rng(seed).standard_normal((n_rows, N_VOCAB))
    return np.asarray(log_softmax(logits), np.float32)


def mix(name: str) -> Mix:
    seed = sum(name.encode())
    z = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    return Mix.of(Steering(name, 8, 3, {1: Delta.constant(z)}))


class Planted:
    """Stands in for `reply_log_probs`: (prompt, mix) -> log-probabilities.

    Rows of a teacher, of the bare model, and of mixes `share` of the way from one to the other.
    """

    def __init__(self, shares: dict[str, float]) -> None:
        self.shares = {mix(name).digest: share for name, share in shares.items()}

    def __call__(
        self, _reader: Reader, prompt: Prompt, reply: Sequence[int], mixes: Sequence[Mix]
    ) -> Iterator[Array]:
        n = len(reply) + 1
        teacher, bare = distributions(reply[0], n), distributions(1000 + reply[0], n)
        for steering in mixes:
            if prompt.tokens[0] == PROMPTED:
                assert not steering
                yield teacher
            elif not steering:
                yield bare
            else:
                share = self.shares[steering.digest]
                blend = np.exp(teacher) * share + np.exp(bare) * (1 - share)
                yield np.log(blend).astype(np.float32)


PROMPTED, BARE = 7, 8
LESSONS = [
    Lesson(Prompt((PROMPTED, 1)), Prompt((BARE,)), tuple(range(first, first + n)))
    for first, n in ((10, 4), (20, 2), (30, 9))
]


def kl(share: float) -> float:
    """Sum over all lessons' rows of KL(teacher || blend), by torch."""
    total = 0.0
    for lesson in LESSONS:
        teacher = distributions(lesson.reply[0], lesson.n_rows).astype(np.float64)
        bare = distributions(1000 + lesson.reply[0], lesson.n_rows).astype(np.float64)
        blend = np.log(share * np.exp(teacher) + (1 - share) * np.exp(bare))
        total += divergence(teacher, blend)
    return total


def test_the_gap_closed_is_one_minus_the_ratio_of_summed_divergences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares = {"none": 0.0, "some": 0.3, "most": 0.9, "all": 1.0}
    monkeypatch.setattr(measure, "reply_log_probs", Planted(shares))
    gaps = measure.gaps_closed(NO_READER, LESSONS, [mix(name) for name in shares])
    expected = [1 - kl(share) / kl(0.0) for share in shares.values()]
    np.testing.assert_allclose(gaps, expected, atol=1e-5)
    assert gaps[0] == 0
    assert gaps[-1] == pytest.approx(1)
    assert 0 < gaps[1] < gaps[2] < 1


def test_steering_the_wrong_way_is_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "reply_log_probs", Planted({"away": -0.0}))

    def away(reader: Reader, prompt: Prompt, reply: Sequence[int], mixes: Sequence[Mix]) -> Any:
        rows = list(Planted({"away": 0.0})(reader, prompt, reply, mixes))
        if len(rows) > 1:  # as far beyond the bare model as that is from the teacher
            (teacher,) = Planted({})(reader, Prompt((PROMPTED,)), reply, [NOTHING])
            rows[1] = measure.log_softmax(2 * rows[0] - teacher)
        return iter(rows)

    monkeypatch.setattr(measure, "reply_log_probs", away)
    assert measure.gaps_closed(NO_READER, LESSONS, [mix("away")])[0] < -0.5


def test_a_long_prompt_is_read_once_for_some_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(tiny_model("llama"))
    context, n_decoded = Context(model, n_ctx=256, n_threads=1), 0
    decode = context.decode

    def counted(batch: Sequence[Row], *more: Any, **named: Any) -> Any:
        nonlocal n_decoded
        n_decoded += len(batch)
        return decode(batch, *more, **named)

    monkeypatch.setattr(context, "decode", counted)
    long = tuple(range(100, 200))
    lessons = [Lesson(Prompt((*long, i)), Prompt((300, i)), (400, 401)) for i in (7, 8, 9)]
    measure.gaps_closed(Reader(context), lessons, [])
    assert n_decoded == len(long) + 3 * 3 + 1 + 3 * 3
    context.close()
    model.close()


def test_progress_is_reported_for_every_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "reply_log_probs", Planted({"some": 0.3}))
    told: list[tuple[float, int]] = []
    measure.gaps_closed(
        NO_READER, LESSONS, [mix("some")], lambda _what, done, total: told.append((done, total))
    )
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def covariance(weights: Array, a: Array, b: Array) -> float:
    return sum(
        float(np.cov(x, y, aweights=w, ddof=0)[0, 1])
        for w, x, y in zip(weights, a, b, strict=True)
    )


def planted_probes() -> list[Probe]:
    rng = np.random.default_rng(4)
    return [
        Probe(
            Prompt((BARE, i)), (3, 5, 9), distributions(50 + i, 4),
            rng.standard_normal((4, N_VOCAB)).astype(np.float32),
        )
        for i in range(3)
    ]  # fmt: skip


STEERING = mix("dial").terms[0].steering


def pulled(monkeypatch: pytest.MonkeyPatch, pull: dict[float, float], seed: int = 0) -> None:
    """Plant: at strength k, log-probabilities move by `pull[k]` times what is wanted, and noise."""
    by_prompt = {probe.opening: probe for probe in planted_probes()}

    def log_probs(
        _reader: Reader, prompt: Prompt, reply: Sequence[int], mixes: Sequence[Mix]
    ) -> Iterator[Array]:
        probe = by_prompt[prompt]
        assert reply == probe.own
        noise = np.random.default_rng(seed).standard_normal(probe.log_probs.shape) if seed else 0.0
        for steered in mixes:
            (term,) = steered.terms
            yield (probe.log_probs + pull[term.strength] * probe.wanted + noise).astype(np.float32)

    monkeypatch.setattr(measure, "reply_log_probs", log_probs)


def test_a_dial_that_moves_words_as_prompts_do_is_1_at_every_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pulled(monkeypatch, {-2: -2, -1: -1, 1: 1, 2: 2})
    dial, _ = measure.dial_and_damage(NO_READER, planted_probes(), STEERING)
    assert dial == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("pull", "expected"),
    [
        ({-2: -2.0, -1: -1.0, 1: 0.25, 2: 2.0}, 0.25),  # the weakest turn counts
        ({-2: -1.1, -1: -1.0, 1: 1.0, 2: 2.0}, 0.1),
        ({-2: -2.0, -1: -1.0, 1: 1.0, 2: 0.5}, -0.5),  # turned further it falls back
        ({-2: 2.0, -1: 1.0, 1: 1.0, 2: 2.0}, -1.0),  # both ways the same
        ({-2: 2.0, -1: 1.0, 1: -1.0, 2: -2.0}, -1.0),  # the wrong way round
        ({-2: 0.0, -1: 0.0, 1: 0.0, 2: 0.0}, 0.0),
    ],
)
def test_a_dial_is_as_good_as_its_weakest_turn(
    pull: dict[float, float], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled(monkeypatch, pull)
    dial, _ = measure.dial_and_damage(NO_READER, planted_probes(), STEERING)
    assert dial == pytest.approx(expected, abs=1e-4)


def test_the_pull_is_a_covariance_under_the_unsteered_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pulled(monkeypatch, {-2: 0, -1: 0, 1: 1, 2: 3}, seed=9)
    probes = planted_probes()
    noise = np.random.default_rng(9).standard_normal(probes[0].log_probs.shape)
    weights = [np.exp(probe.log_probs) for probe in probes]
    wanted = sum(covariance(w, p.wanted, p.wanted) for w, p in zip(weights, probes, strict=True))
    drift = sum(
        covariance(w, noise.astype(np.float32), p.wanted)
        for w, p in zip(weights, probes, strict=True)
    ) / wanted  # fmt: skip
    # Pulls are (drift, drift, 0, 1 + drift, 3 + drift): turns 0, -drift, 1 + drift, 2.
    dial, _ = measure.dial_and_damage(NO_READER, probes, STEERING)
    assert dial == pytest.approx(min(0.0, -drift, 1 + drift), abs=1e-4)


def test_damage_is_what_the_models_own_words_lose_at_strength_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pulled(monkeypatch, {-2: 9, -1: 9, 1: 0.7, 2: 9})
    probes = planted_probes()
    _, damage = measure.dial_and_damage(NO_READER, probes, STEERING)
    lost = [-0.7 * p.wanted[row, word] for p in probes for row, word in enumerate(p.own)]
    assert damage == pytest.approx(float(np.mean(lost)), abs=1e-4)


# On the real model


@pytest.fixture
def reader(context: Context) -> Reader:
    return Reader(context)


def lesson_of(model: Model, prompted: str, bare: str, reply: str) -> Lesson:
    vocab = model.vocab

    def prompt(text: str) -> Prompt:
        return Prompt((vocab.bos, *vocab.tokenize(text)), has_bos=True)

    return Lesson(prompt(prompted), prompt(bare), tuple(vocab.tokenize(reply)))


@pytest.fixture(scope="module")
def pirate(model: Model) -> Lesson:
    return lesson_of(
        model, "Arr, ye scurvy dogs! A pirate says:", "A person says:", " Ahoy, matey! The sea"
    )


def steering(model: Model, size: float, seed: int = 1) -> Mix:
    z = np.random.default_rng(seed).standard_normal(model.n_embd)
    deltas = {12: Delta.constant((size * z / np.linalg.norm(z)).astype(np.float32))}
    return Mix.of(Steering("random", model.n_embd, model.n_layer, deltas))


def test_log_probabilities_are_those_of_llama_cpp_at_the_boundary_and_reply_rows(
    reader: Reader, pirate: Lesson, plain_logits: Any
) -> None:
    for prompt in (pirate.prompted, pirate.bare):
        (found,) = measure.reply_log_probs(reader, prompt, pirate.reply, [NOTHING])
        tokens = [*prompt.tokens, *pirate.reply]
        expected = log_softmax(plain_logits(tokens))
        assert found.shape == (pirate.n_rows, expected.shape[1])
        assert np.abs(found - expected[-pirate.n_rows :]).max() < 0.05


def test_each_mix_is_measured_as_if_it_were_alone(
    reader: Reader, model: Model, pirate: Lesson
) -> None:
    """Cells of one mix never serve another, in whatever order they come."""
    mixes = [steering(model, 20), NOTHING, steering(model, 20, 2), steering(model, 20), NOTHING]
    together = list(measure.reply_log_probs(reader, pirate.bare, pirate.reply, mixes))
    for alone, found in zip(mixes, together, strict=True):
        reader.reuse([])
        (expected,) = measure.reply_log_probs(reader, pirate.bare, pirate.reply, [alone])
        assert np.abs(found - expected).max() < 0.05
    assert np.abs(together[0] - together[1]).max() > 0.5
    assert np.abs(together[0] - together[2]).max() > 0.5


def test_steering_that_does_nothing_closes_nothing_and_the_gap_is_that_of_the_rows(
    reader: Reader, model: Model, pirate: Lesson
) -> None:
    gaps = measure.gaps_closed(reader, [pirate], [NOTHING, steering(model, 30)])
    assert gaps[0] == pytest.approx(0, abs=1e-3)
    (teacher,) = measure.reply_log_probs(reader, pirate.prompted, pirate.reply, [NOTHING])
    bare, steered = measure.reply_log_probs(
        reader, pirate.bare, pirate.reply, [NOTHING, steering(model, 30)]
    )
    expected = 1 - divergence(teacher, steered) / divergence(teacher, bare)
    assert gaps[1] == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_a_teacher_that_is_the_bare_model_teaches_nothing(reader: Reader, model: Model) -> None:
    same = lesson_of(model, "A person says:", "A person says:", " Hello")
    with pytest.raises(FitError, match=r"there is nothing to learn: .*give the teacher an inst"):
        measure.gaps_closed(reader, [same], [steering(model, 5)])


PAIRS = (("I love this.", "I hate this."), ("What joy!", "What misery!"))


def test_probes_are_the_models_own_words_and_what_the_contrast_does_to_them(
    reader: Reader, engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = measure.probes(engine, reader, PAIRS)
    assert len(probes) == len(measure.OPENINGS)
    vocab = model.vocab
    for probe, text in zip(probes, measure.OPENINGS, strict=True):
        assert vocab.text(list(probe.opening.tokens[1:])) == text
        assert 0 < len(probe.own) <= 6
        assert probe.log_probs.shape == probe.wanted.shape == (len(probe.own) + 1, vocab.n_tokens)
        greedy = probe.log_probs[: len(probe.own)].argmax(axis=-1)
        assert list(greedy) == list(probe.own)
    (love,) = vocab.tokenize(" love")
    (hate,) = vocab.tokenize(" hate")
    assert sum(float(p.wanted[0, love] - p.wanted[0, hate]) for p in probes) > 1
    monkeypatch.setattr(measure, "OPENINGS", measure.OPENINGS[:1])
    turned = measure.probes(engine, reader, [(b, a) for a, b in PAIRS])
    np.testing.assert_allclose(probes[0].wanted, -turned[0].wanted, atol=0.1)


def test_a_contrast_that_the_model_reads_as_the_same_is_refused(
    reader: Reader, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "OPENINGS", measure.OPENINGS[:1])
    with pytest.raises(FitError, match="contrast makes no difference to what the model says; wri"):
        measure.probes(engine, reader, [("Love", " Love")])


@pytest.mark.parametrize("n_pairs", [1, 3, 4, 5, 12, 13])
def test_of_many_pairs_a_few_are_read_spread_over_the_list(
    n_pairs: int, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(f"plus {i}", f"minus {i}") for i in range(n_pairs)]
    read: list[Sequence[tuple[str, str]]] = []

    def note(_e: Engine, _c: Reader, chosen: Sequence[tuple[str, str]], _text: str) -> Probe:
        read.append(chosen)
        return planted_probes()[0]

    monkeypatch.setattr(measure, "_probe", note)
    measure.probes(engine, NO_READER, pairs)
    assert len(read) == len(measure.OPENINGS)
    for chosen in read:
        assert 1 <= len(chosen) <= 4
        assert set(chosen) <= set(pairs)
        assert n_pairs > 4 or list(chosen) == pairs
    assert n_pairs < 5 or pairs.index(read[0][-1]) >= n_pairs * 2 // 3


def test_harder_steering_breaks_more(
    reader: Reader, engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "OPENINGS", measure.OPENINGS[:1])
    probes = measure.probes(engine, reader, PAIRS[:1])
    damage = [
        measure.dial_and_damage(reader, probes, steering(model, size).terms[0].steering)[1]
        for size in (0.01, 60.0, 240.0)
    ]
    assert abs(damage[0]) < 0.02
    assert damage[0] < damage[1] < damage[2]
    assert damage[2] > 0.5
