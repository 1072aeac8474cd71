"""`chain`: a planted map is found again, and a real teacher's gap closes without gradients."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace

import numpy as np
import pytest

from steerplug.chat.template import ChatTemplate
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.engine.scope import Prompt
from steerplug.fit.chain import chain as chains
from steerplug.fit.chain.chain import Chain, fit_chain
from steerplug.fit.chain.regression import Sums, regress, weights_of
from steerplug.fit.measure import gaps_closed
from steerplug.fit.teacher import Lesson, teach
from steerplug.library.presets import load_preset
from steerplug.steering.value import Array, Delta, Mix

N_ROWS, N_EMBD, RANK = 600, 24, 3
QUESTIONS = (
    "What is rain?", "How do I boil an egg?", "Tell me about trains.", "Why do cats sleep so much?",
    "Give me a tip for school.", "What is a forest?",
)  # fmt: skip
UNSEEN = ("What is snow?", "How do I make tea?")
N_TOKENS = 24


def normed(rows: Array) -> Array:
    return np.asarray(rows / np.sqrt((rows**2).mean(axis=1, keepdims=True)), np.float32)


def planted(noise: float) -> tuple[Array, Array, Array, Array]:
    """Rows, the rank-3 affine image of their directions that they miss, and the map."""
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(N_ROWS, N_EMBD)) + rng.normal(size=N_EMBD)).astype(np.float32)
    matrix = rng.normal(size=(N_EMBD, RANK)) @ rng.normal(size=(RANK, N_EMBD))
    offset = rng.normal(size=N_EMBD)
    missing = normed(rows) @ matrix + offset + noise * rng.normal(size=rows.shape)
    return tuple(x.astype(np.float32) for x in (rows, missing, matrix, offset))  # type: ignore[return-value]


def parts(rows: Array, missing: Array) -> list[Sums]:
    weights = np.ones(len(rows), np.float32)
    return [Sums.of(rows[i::4], missing[i::4], weights[i::4]) for i in range(4)]


def applied(delta: Delta, rows: Array) -> Array:
    return np.asarray(delta.z[0] + (normed(rows) @ delta.W.T + delta.b) @ delta.Z, np.float32)


def test_a_planted_low_rank_map_is_found_again() -> None:
    rows, missing, matrix, offset = planted(noise=0.1)
    delta = regress(parts(rows, missing), RANK)
    fresh = np.random.default_rng(1).normal(size=(50, N_EMBD)).astype(np.float32)
    wanted = normed(fresh) @ matrix + offset
    assert np.linalg.norm(applied(delta, fresh) - wanted) < 0.05 * np.linalg.norm(wanted)
    assert (delta.n_units, delta.act, delta.norm) == (RANK, "identity", "rms")


def test_a_rank_too_small_for_the_map_loses_part_of_it() -> None:
    rows, missing, *_ = planted(noise=0.1)

    def error(rank: int) -> float:
        return float(((applied(regress(parts(rows, missing), rank), rows) - missing) ** 2).sum())

    assert error(1) > 2 * error(2) > 4 * error(RANK)


def test_full_rank_and_hardly_a_ridge_is_least_squares() -> None:
    rows, missing, *_ = planted(noise=0.5)
    design = np.hstack([normed(rows), np.ones((N_ROWS, 1))])
    wanted = design @ np.linalg.lstsq(design, missing, rcond=None)[0]
    found = applied(regress(parts(rows, missing), N_EMBD), rows)
    assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


def test_values_of_another_size_are_fitted_as_well() -> None:
    """What is added counts by its share of a value's own variation, not by its size."""
    rows, missing, *_ = planted(noise=0.1)
    scale = np.geomspace(1, 1e4, N_EMBD).astype(np.float32)
    delta = regress(parts(rows, missing * scale), RANK)
    error = (applied(delta, rows) / scale - missing).std(axis=0)
    assert (error < 0.2 * missing.std(axis=0)).all()


def test_a_value_that_never_varies_does_no_harm() -> None:
    rows, missing, *_ = planted(noise=0.1)
    missing[:, 3] = 0
    delta = regress(parts(rows, missing), RANK)
    assert np.abs(applied(delta, rows)[:, 3]).max() < 1e-3


def test_where_nothing_can_be_predicted_only_the_mean_is_left() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 40)).astype(np.float32)
    missing = (rng.normal(size=(200, 40)) + 5).astype(np.float32)
    varying = applied(regress(parts(rows, missing), 8), rows) - 5
    assert np.abs(varying.mean(axis=0)).mean() < 0.1
    assert np.abs(varying).mean() < 0.3


def test_a_weight_counts_as_so_many_rows() -> None:
    rows, missing, *_ = planted(noise=0.5)
    weights = np.where(np.arange(len(rows)) < 100, 3, 1).astype(np.float32)
    times = weights.astype(int)
    weighted = Sums.of(rows, missing, weights)
    repeated = np.repeat(rows, times, axis=0), np.repeat(missing, times, axis=0)
    counted = Sums.of(*repeated, np.ones(times.sum(), np.float32))
    for one, other in zip(astuple(weighted), astuple(counted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_few_rows_that_lack_much_do_not_take_the_map_from_the_others() -> None:
    """As a reply's first tokens do; by least squares alone the error of the others doubles."""
    rng = np.random.default_rng(2)
    rows, missing, *_ = planted(noise=0.5)
    far = rng.choice(N_ROWS, 30, replace=False)
    others = np.setdiff1d(np.arange(N_ROWS), far)
    missing[far] = 12 * missing.std() * rng.normal(size=(30, N_EMBD))

    def error(weights: Array) -> float:
        delta = regress([Sums.of(rows[i::4], missing[i::4], weights[i::4]) for i in range(4)], RANK)
        return float(((applied(delta, rows) - missing)[others] ** 2).mean())

    weights = weights_of(missing)
    assert weights.max() <= 1
    assert weights[far].max() < weights[others].min()
    assert error(weights) < 0.5 * error(np.ones(N_ROWS, np.float32))


def test_rows_that_lack_nothing_all_count() -> None:
    assert (weights_of(np.zeros((3, 4), np.float32)) == 1).all()


def test_one_part_alone_takes_a_ridge_of_the_middle() -> None:
    rows, missing, *_ = planted(noise=0.1)
    delta = regress([Sums.of(rows, missing, np.ones(len(rows), np.float32))], RANK)
    assert np.linalg.norm(applied(delta, rows) - missing) < 0.2 * np.linalg.norm(missing)


@pytest.fixture(scope="module")
def model(quick_model: Model) -> Model:
    """The model as a fit reads it."""
    return quick_model


@pytest.fixture(scope="module")
def reader(model: Model) -> Iterator[Reader]:
    with reading(model, 1024) as reader:
        yield reader


@pytest.fixture(scope="module")
def taught(model: Model, quick_engine: Engine) -> tuple[list[Lesson], list[Lesson]]:
    template = ChatTemplate.of(model)
    teacher = load_preset("pirate").teacher
    assert teacher is not None
    return (
        teach(quick_engine, template, teacher, QUESTIONS, seed=0, n_tokens=N_TOKENS),
        teach(quick_engine, template, teacher, UNSEEN, seed=1, n_tokens=N_TOKENS),
    )


def test_a_few_lessons_close_part_of_the_gap_on_unseen_questions(
    model: Model, reader: Reader, taught: tuple[list[Lesson], list[Lesson]]
) -> None:
    lessons, unseen = taught
    chain = Chain("pirate", model.n_embd, model.n_layer, "response")
    three = fit_chain(chain, reader, lessons, [20, 27, 29])
    one, two = (
        replace(three, layers={il: three.layers[il] for il in layers})
        for layers in ([20], [20, 27])  # a block's delta knows none above it
    )
    closed = gaps_closed(reader, unseen, [Mix.of(steering) for steering in (one, two, three)])
    assert list(three.layers) == [20, 27, 29]
    assert 0.3 < closed[0] < closed[1]
    assert closed[1] > 0.5
    assert closed[2] > closed[1] + 0.01  # the last block, fitted to the prediction


def test_blocks_see_those_below_them_steered(
    model: Model, reader: Reader, taught: tuple[list[Lesson], list[Lesson]]
) -> None:
    """Above a block that already closes most of what it can, less is missing than without it."""
    lessons = taught[0][:4]
    chain = Chain("pirate", model.n_embd, model.n_layer, "response")
    alone = fit_chain(chain, reader, lessons, [10]).layers[10].z
    after = fit_chain(chain, reader, lessons, [9, 10]).layers[10].z
    assert np.linalg.norm(after) < 0.7 * np.linalg.norm(alone)


def test_in_scope_all_the_end_that_both_prompts_share_is_fitted_too(
    model: Model, reader: Reader, taught: tuple[list[Lesson], list[Lesson]]
) -> None:
    lessons, unseen = taught
    chain = Chain("pirate", model.n_embd, model.n_layer, "all")
    steering = fit_chain(chain, reader, lessons[:4], [24])
    assert steering.scope == "all"
    (closed,) = gaps_closed(reader, unseen[:1], [Mix.of(steering)])
    assert closed > 0.2


# The order of the work


@pytest.fixture(scope="module")
def random() -> list[Lesson]:
    """Two lessons of random tokens."""
    rng = np.random.default_rng(0)
    texts = rng.integers(3, 96, (2, 30)).tolist()
    return [Lesson(Prompt(tuple(t[:20])), Prompt(tuple(t[10:20])), tuple(t[20:])) for t in texts]


def test_blocks_that_are_known_are_not_fitted_again(tiny: Reader, random: list[Lesson]) -> None:
    chain = Chain("pirate", 64, 5, "response")
    deltas: dict[int, Delta] = {}
    whole = fit_chain(chain, tiny, random, [0, 2, 4], deltas=deltas)
    assert list(deltas) == [0, 2, 4]  # the first and the last of five among them
    told: list[tuple[str, int, int]] = []
    del deltas[4]
    again = fit_chain(
        chain, tiny, random, [0, 2, 4], deltas=deltas, report=lambda *step: told.append(step)
    )
    assert again.digest == whole.digest
    assert [done for what, done, _ in told if what.startswith("distilling")] == [2, 3]


def test_a_row_before_the_reply_counts_a_fifth(
    tiny: Reader, random: list[Lesson], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[float] = []

    def told(parts: Sequence[Sums], rank: int) -> Delta:
        counted.append(sum(part.n for part in parts))
        return regress(parts, rank)

    monkeypatch.setattr(chains, "weights_of", lambda missing: np.ones(len(missing), np.float32))
    monkeypatch.setattr(chains, "regress", told)
    for scope in ("response", "all"):
        fit_chain(Chain("pirate", 64, 5, scope), tiny, random, [2])
    # Of a reply of 10 the boundary is a row too, and 9 before it are both prompts' own.
    assert counted == pytest.approx([2 * 11, 2 * (11 + 9 / 5)])


def test_the_prompted_model_is_read_for_as_many_blocks_at_a_time_as_memory_allows(
    tiny: Reader, random: list[Lesson], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain("pirate", 64, 5, "response")
    read: list[str] = []

    def fitted() -> str:
        read.clear()
        return fit_chain(
            chain, tiny, random, [1, 2], report=lambda what, *_: read.append(what)
        ).digest

    at_once = fitted()
    n_at_once = read.count("reading the prompted model")
    monkeypatch.setattr(chains, "_MOST_BYTES", 1)
    assert fitted() == at_once
    assert read.count("reading the prompted model") == 2 * n_at_once
