"""`chain`: a planted map is found again, and a real teacher's gap closes without gradients."""

import numpy as np
import pytest

from steerplug.chat.template import ChatTemplate
from steerplug.engine.cells import Cells
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.fit.chain import Chain, fit_chain, regress
from steerplug.fit.measure import gaps_closed
from steerplug.fit.teacher import Lesson, teach
from steerplug.library import load_preset
from steerplug.steering.value import Array, Mix

N_ROWS, N_EMBD, RANK = 600, 24, 3
QUESTIONS = (
    "What is rain?", "How do I boil an egg?", "Tell me about trains.", "Why do cats sleep so much?",
    "Give me a tip for school.", "What is a forest?", "How are you today?", "Who was Einstein?",
    "What should I wear in winter?", "Describe the ocean.", "What is a good hobby?",
    "How does a clock work?",
)  # fmt: skip
UNSEEN = ("What is snow?", "How do I make tea?", "Tell me about horses.")


def planted(noise: float) -> tuple[Array, Array, Array, Array]:
    """Rows, the rank-3 affine image they miss, and the map."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(N_ROWS, N_EMBD)) + rng.normal(size=N_EMBD)
    matrix = rng.normal(size=(N_EMBD, RANK)) @ rng.normal(size=(RANK, N_EMBD))
    offset = rng.normal(size=N_EMBD)
    missing = rows @ matrix + offset + noise * rng.normal(size=rows.shape)
    return tuple(x.astype(np.float32) for x in (rows, missing, matrix, offset))  # type: ignore[return-value]


def test_a_planted_low_rank_map_is_found_again() -> None:
    rows, missing, matrix, offset = planted(noise=0.1)
    delta = regress(rows, missing, np.arange(N_ROWS) % 6 != 0, RANK)
    fresh = np.random.default_rng(1).normal(size=(50, N_EMBD))
    said = delta.z[0] + (fresh @ delta.W.T + delta.b) @ delta.Z
    wanted = fresh @ matrix + offset
    assert np.linalg.norm(said - wanted) < 0.05 * np.linalg.norm(wanted)
    assert (delta.n_units, delta.act, delta.norm) == (RANK, "identity", "none")


def test_a_rank_too_small_for_the_map_loses_part_of_it() -> None:
    rows, missing, *_ = planted(noise=0.1)
    seen = np.arange(N_ROWS) % 6 != 0

    def error(rank: int) -> float:
        delta = regress(rows, missing, seen, rank)
        return float(((delta.z[0] + (rows @ delta.W.T + delta.b) @ delta.Z - missing) ** 2).sum())

    assert error(1) > 2 * error(2) > 4 * error(RANK)


def test_where_nothing_can_be_predicted_only_the_mean_is_left() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 40)).astype(np.float32)
    missing = (rng.normal(size=(200, 40)) + 5).astype(np.float32)
    delta = regress(rows, missing, np.arange(200) % 6 != 0, 8)
    varying = (rows @ delta.W.T + delta.b) @ delta.Z
    assert np.linalg.norm(delta.z[0] - 5) < 1
    assert np.abs(varying).mean() < 0.3


@pytest.fixture(scope="module")
def taught(model: Model, engine: Engine) -> tuple[list[Lesson], list[Lesson]]:
    template = ChatTemplate(model.chat_template, model.vocab, model.name)
    teacher = load_preset("pirate").teacher
    assert teacher is not None
    return (
        teach(engine, template, teacher, QUESTIONS, seed=0),
        teach(engine, template, teacher, UNSEEN, seed=1),
    )


def test_a_few_lessons_close_part_of_the_gap_on_unseen_questions(
    model: Model, taught: tuple[list[Lesson], list[Lesson]]
) -> None:
    lessons, unseen = taught
    cells = Cells(Context(model, n_ctx=1024, n_threads=1))
    chain = Chain("pirate", model.n_embd, model.n_layer, "response")
    one = fit_chain(chain, cells, lessons, [20])
    four = fit_chain(chain, cells, lessons, [5, 12, 19, 26])
    gap_one, gap_four = gaps_closed(cells, unseen, [Mix.of(one), Mix.of(four)])
    assert list(four.layers) == [5, 12, 19, 26]
    assert 0.1 < gap_one < gap_four


def test_blocks_see_those_below_them_steered(
    model: Model, taught: tuple[list[Lesson], list[Lesson]]
) -> None:
    """Above a block that already closes most of what it can, less is missing than without it."""
    lessons = taught[0][:6]
    cells = Cells(Context(model, n_ctx=1024, n_threads=1))
    chain = Chain("pirate", model.n_embd, model.n_layer, "response")
    alone = fit_chain(chain, cells, lessons, [20]).layers[20].z
    after = fit_chain(chain, cells, lessons, [19, 20]).layers[20].z
    assert np.linalg.norm(after) < 0.7 * np.linalg.norm(alone)
