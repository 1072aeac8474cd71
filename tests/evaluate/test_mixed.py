"""Mixing distilled presets: half is between, less than nothing is the other way, a sum is both.

The measure is `gap_closed` on replies of the prompted model to unseen questions, all of it on the
shipped presets and the real model.
"""

from collections.abc import Callable, Iterator, Sequence

import pytest

from steerplug.build import build_preset
from steerplug.chat.template import ChatTemplate
from steerplug.engine.engine import Engine
from steerplug.engine.reader import Reader, reading
from steerplug.evaluate.mixed import mixed
from steerplug.evaluate.questions import unseen
from steerplug.fit.measure import gaps_closed
from steerplug.fit.teacher import Lesson, teach
from steerplug.library.presets import load_preset
from steerplug.preset import Preset
from steerplug.steering.value import Mix, Steering
from steerplug.store.store import Store

N_QUESTIONS, N_TOKENS = 3, 16

Gaps = Callable[[Sequence[Lesson], Sequence[Mix]], list[float]]
Lessons = Callable[[Preset], list[Lesson]]


@pytest.fixture(scope="module")
def steering(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Steering]:
    store = Store(tmp_path_factory.mktemp("store"))
    return lambda name: build_preset(load_preset(name), engine, store=store).steering


@pytest.fixture(scope="module")
def copy(quick_engine: Engine) -> Iterator[tuple[Engine, Reader]]:
    """A quick copy of the model, that says and reads all of it."""
    with reading(quick_engine.model, 1024) as reader:
        yield quick_engine, reader


@pytest.fixture(scope="module")
def gaps(copy: tuple[Engine, Reader]) -> Gaps:
    return lambda lessons, mixes: list(map(float, gaps_closed(copy[1], lessons, mixes)))


@pytest.fixture(scope="module")
def lessons_of(copy: tuple[Engine, Reader]) -> Lessons:
    template = ChatTemplate.of(copy[0].model)

    def lessons_of(preset: Preset) -> list[Lesson]:
        assert preset.teacher is not None
        questions = unseen(preset, N_QUESTIONS)
        return teach(copy[0], template, preset.teacher, questions, seed=3, n_tokens=N_TOKENS)

    return lessons_of


def test_half_lies_between_and_less_than_nothing_leads_away(
    lessons_of: Lessons, steering: Callable[[str], Steering], gaps: Gaps
) -> None:
    lessons, pirate = lessons_of(load_preset("pirate")), steering("pirate")
    away, half, full = gaps(lessons, [-0.5 * pirate, 0.5 * pirate, 1.0 * pirate])
    assert away < -0.05
    assert half > 0.1
    assert 1 - full < 0.75 * (1 - half)  # of the gap, much less is left


def test_two_presets_together_are_near_the_model_prompted_with_both_in_either_order(
    lessons_of: Lessons, steering: Callable[[str], Steering], gaps: Gaps
) -> None:
    """Prompted with both, the model follows the one it read last; a sum has no order."""
    names = "pirate", "concise"
    pirate, concise = map(steering, names)
    mixes = [pirate + concise, 1.0 * pirate, 1.0 * concise]
    orders = [[load_preset(name) for name in order] for order in (names, names[::-1])]
    found = [gaps(lessons_of(mixed(both, [True, True])), mixes) for both in orders]
    together, *alone = map(min, *found)
    assert together > 0.35  # 0.68 on 24 questions, and 0.26 for the better one alone
    assert together > max(alone)
