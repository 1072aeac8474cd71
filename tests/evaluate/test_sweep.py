"""Strength sweeps, the choice of a strength, traces, and the questions that all of it is asked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.errors import RequestError
from steerplug.evaluate import questions, sweep, trace
from steerplug.evaluate.estimate import NO_ESTIMATE, Estimate, ratio
from steerplug.evaluate.questions import read_prompts, reported_on, unseen
from steerplug.evaluate.replies import Quality
from steerplug.evaluate.sweep import (
    Chosen,
    Limits,
    Point,
    Sweep,
    choose_strength,
    is_safe,
    lessons_of,
    strengths_of,
)
from steerplug.fit.measure import gaps_closed
from steerplug.fit.questions import general_prompts, spread
from steerplug.library.presets import load_preset
from steerplug.preset import Preset
from steerplug.steering.value import Delta, Steering

TERSE = Preset.from_mapping({
    "schema": "steerplug/preset-v1", "name": "terse", "teacher": {"system": "Answer in French."},
    "fit": {"method": "chain"},
})  # fmt: skip
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)


def quality(coherence: float | None, repetition: float | None) -> Quality:
    return Quality(Estimate(coherence, None), Estimate(repetition, None))


def swept(
    closed: list[list[float]],
    coherence: list[float | None],
    repetition: list[float | None] | None = None,
    preferred: float = 1.0,
) -> Sweep:
    """A sweep over `STRENGTHS`; the prompted model reads at -2 nats and 0.1 repetition."""
    gap, shares = np.ones(len(closed[0])), np.array(closed)
    points = tuple(
        Point(strength, ratio(share, gap), quality(read, again))
        for strength, share, read, again in zip(
            STRENGTHS, shares, coherence, repetition or [0.1] * 5, strict=True
        )
    )
    return Sweep(points, quality(-2.0, 0.1), preferred, gap, shares)


LEVEL = [[0.0] * 8, [0.5] * 8, [0.8] * 8, [0.7] * 8, [0.4] * 8]
GOOD: list[float | None] = [-1, -1, -2, -2.4, -3]


def test_the_default_is_kept_when_nothing_closes_more() -> None:
    assert choose_strength(swept(LEVEL, GOOD)) == Chosen(1.0, 0.0, 1.5)


def test_a_strength_that_closes_more_on_every_prompt_is_taken() -> None:
    better = [*LEVEL[:3], [0.85, 0.9] * 4, LEVEL[4]]
    assert choose_strength(swept(better, GOOD)).default == 1.5


def test_a_strength_that_closes_more_by_chance_is_not() -> None:
    better = [*LEVEL[:3], [0.5, 1.2] * 4, LEVEL[4]]  # 0.85 on average
    assert np.mean(better[3]) > np.mean(better[2])
    assert choose_strength(swept(better, GOOD)).default == 1.0


def test_the_presets_own_default_is_the_one_that_is_kept() -> None:
    level = [[0.8] * 8] * 5
    assert choose_strength(swept(level, GOOD, preferred=0.5)).default == 0.5


@pytest.mark.parametrize(
    ("coherence", "repetition", "expected"),
    [
        ([-1, -1, -2, -2, -2], None, (0.0, 2.0)),
        ([-1, -3, -2, -2.49, -2.51], None, (1.0, 1.5)),  # what lies beyond a gap is not safe
        ([-1, -1, -3, -1, -3], None, (0.0, 0.5)),  # the nearest, where the default is not safe
        ([-3, -3, -3, -3, -3], None, (None, None)),
        ([-1] * 5, [0.0, 0.0, 0.24, 0.26, 0.9], (0.0, 1.0)),
        ([-1] * 5, [None, 0.1, 0.1, 0.1, 0.1], (0.0, 2.0)),  # too short to repeat anything
        ([None, -1, -1, None, -1], None, (0.5, 1.0)),  # no reply at all
    ],
)
def test_the_safe_range_is_where_replies_read_no_worse(
    coherence: list[float | None], repetition: Any, expected: tuple[float | None, float | None]
) -> None:
    chosen = choose_strength(swept(LEVEL, coherence, repetition))
    assert chosen == Chosen(1.0, *expected)


def test_limits_are_the_margin() -> None:
    point = Point(1.0, NO_ESTIMATE, quality(-2.3, 0.2))
    own = quality(-2.0, 0.1)
    assert is_safe(point, own, Limits(0.31, 0.11))
    assert not is_safe(point, own, Limits(0.29, 0.11))
    assert not is_safe(point, own, Limits(0.31, 0.09))


def test_only_what_is_worse_with_its_whole_interval_is_unsafe() -> None:
    own, limits = quality(-2.0, 0.1), Limits(0.5, 0.1)
    for coherence, repetition, safe in (
        (Estimate(-3.0, (-3.6, -2.4)), Estimate(0.5, (0.19, 0.8)), True),
        (Estimate(-3.0, (-3.4, -2.6)), Estimate(0.5, (0.19, 0.8)), False),
        (Estimate(-3.0, (-3.6, -2.4)), Estimate(0.5, (0.21, 0.8)), False),
    ):
        assert is_safe(Point(1.0, NO_ESTIMATE, Quality(coherence, repetition)), own, limits) is safe


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        ({}, [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]),
        ({"min": -2, "default": 0.3, "max": 2},
         [-2, -1.5, -1, -0.5, 0, 0.3, 0.5, 1, 1.5, 2]),
        ({"min": 0.5, "default": 1, "max": 1.3},
         [0, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3]),
    ],
)  # fmt: skip
def test_a_sweep_goes_from_min_to_max_with_nothing_and_the_default(
    strength: dict[str, float], expected: list[float]
) -> None:
    preset = Preset.from_mapping({
        "schema": "steerplug/preset-v1", "name": "p", "teacher": {"system": "Hi"},
        "fit": {"method": "chain"}, "strength": strength,
    })  # fmt: skip
    assert strengths_of(preset) == expected


# --- the real model, as a fit reads it


@pytest.fixture
def model(quick_model: Model) -> Model:
    return quick_model


@pytest.fixture
def engine(quick_engine: Engine) -> Engine:
    return quick_engine


@pytest.fixture
def context(quick_context: Context) -> Context:
    return quick_context


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "REPLY_TOKENS", 8)
    monkeypatch.setattr(trace, "TRACED_TOKENS", 8)


def random_steering(model: Model, size: float) -> Steering:
    z = np.random.default_rng(2).standard_normal(model.n_embd)
    delta = Delta.constant((size * z / np.linalg.norm(z)).astype(np.float32))
    return Steering("random", model.n_embd, model.n_layer, {12: delta})


@pytest.mark.usefixtures("short")
def test_a_sweep_measures_every_strength_on_the_same_lessons(
    engine: Engine, context: Context, model: Model
) -> None:
    preset, steering = TERSE, random_steering(model, 60)
    lessons = lessons_of(preset, engine, ["How do boats float?", "What is the moon?"])
    found = sweep.sweep(preset, steering, engine, Reader(context), lessons, strengths=[0, 3])
    assert [point.strength for point in found.points] == [0, 3]
    gaps = gaps_closed(Reader(context), lessons, [3.0 * steering])
    shares = [point.gap_closed.value for point in found.points]
    assert shares == pytest.approx([0, *gaps], abs=0.02)
    assert shares[0] == 0
    coherence = [point.quality.coherence.value for point in found.points]
    assert None not in coherence
    assert coherence[1] < coherence[0]  # type: ignore[operator]
    said = sweep.as_dict(found, choose_strength(found))
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert list(said) == ["default", "safe_min", "safe_max", "reference", "points"]
    assert list(said["points"][1]) == [
        "strength", "gap_closed", "gap_closed_interval", "coherence", "coherence_interval",
        "repetition", "repetition_interval",
    ]  # fmt: skip


@pytest.mark.usefixtures("short")
def test_a_contrast_is_swept_against_the_bare_model(
    engine: Engine, context: Context, model: Model
) -> None:
    preset, steering = load_preset("love-hate"), random_steering(model, 60)
    lessons = lessons_of(preset, engine, ["What is the moon?"])
    found = sweep.sweep(preset, steering, engine, Reader(context), lessons, strengths=[0, 1])
    assert [point.gap_closed for point in found.points] == [NO_ESTIMATE, NO_ESTIMATE]
    assert found.points[0].quality == found.reference
    assert choose_strength(found).default == preset.strength.default


@pytest.mark.usefixtures("short")
def test_a_trace_says_what_was_moved_at_every_token(engine: Engine, model: Model) -> None:
    preset = load_preset("pirate")
    told = trace.trace(preset, random_steering(model, 30), engine, "What is the moon?")
    assert told.question == "What is the moon?"
    assert len(told.texts) == len(told.moved) == 8
    assert all(moved > 0 for moved in told.moved)
    twice = trace.trace(preset, 0.0 * random_steering(model, 30), engine, "What is the moon?")
    assert twice.moved == (0.0,) * 8


# --- questions


def test_questions_are_never_those_of_the_fit() -> None:
    general = load_preset("pirate")
    held_out = general_prompts("held_out")
    found = reported_on(general)
    asked = [*found.compared, *found.further]
    assert (len(found.compared), len(asked), len(set(asked))) == (questions.QUESTIONS, 40, 40)
    assert set(asked) == set(unseen(general, 40)) <= set(held_out)
    assert not set(asked) & set(general_prompts("fit"))
    assert len(set(found.neutral)) == questions.NEUTRAL
    assert set(found.neutral) <= set(general_prompts("neutral"))
    own = Preset.from_mapping({
        "schema": "steerplug/preset-v1", "name": "p", "teacher": {"system": "Hi"},
        "fit": {"method": "chain", "prompts": list(held_out[::2])},
    })  # fmt: skip
    other = reported_on(own)
    assert not {*unseen(own, 40), *other.compared, *other.further} & {*held_out[::2]}
    assert not set(other.further) & set(other.compared)


def test_one_s_own_questions_are_all_compared_and_no_others_are_asked() -> None:
    found = reported_on(load_preset("pirate"), ["One?", "Two?"])
    assert (list(found.compared), list(found.further)) == (["One?", "Two?"], [])
    assert len(found.neutral) == questions.NEUTRAL


def test_a_few_of_many_are_spread_over_the_list() -> None:
    assert spread("abcdefghij", 5) == list("acegi")
    assert spread("abc", 5) == list("abc")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"One?\n\n  Two? \r\nOne?\n", ["One?", "Two?"]),
        ("\ufeffWas ist Öl?\n".encode(), ["Was ist Öl?"]),
        (b' ["One\\nand more?", "Two?"]', ["One\nand more?", "Two?"]),
    ],
)
def test_prompts_are_lines_or_a_json_list(
    content: bytes, expected: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    assert read_prompts(path) == expected


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b" \n\n", "are empty; write one prompt a line"),
        (b"[]", "are empty"),
        (b"abc\xff", r"are not UTF-8 text \(byte 3\); save them as UTF-8"),
        (b"x" * 1_000_001, "take more than 1 MB; choose a few hundred"),
        (b"[1, 2]", "hold 1, which is no text; put every prompt in quotes"),
        (b'["a"', "begin like a JSON list and are not one"),
        (b"[" * 100_000, "begin like a JSON list and are not one"),
        (None, r"cannot be read \(No such file or directory\); name a text file"),
    ],
)
def test_bad_prompt_files_are_refused(
    content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=sentence):
        read_prompts(path)
