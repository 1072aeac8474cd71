"""The fidelity report: planted figures against torch, intervals that cover, and the real model."""

import json
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
from steerplug.engine.scope import Prompt
from steerplug.errors import FitError, PresetError
from steerplug.evaluate import fidelity, rows
from steerplug.evaluate.estimate import NO_ESTIMATE, Estimate, ratio, share, share_change
from steerplug.evaluate.fidelity import measure_fidelity, row_figures
from steerplug.evaluate.mixed import mixed
from steerplug.evaluate.questions import Questions
from steerplug.evaluate.replies import (
    JudgedReply,
    Quality,
    Reading,
    greedy,
    read,
    repeated,
    schema_of,
)
from steerplug.fit import measure
from steerplug.fit.teacher import Lesson
from steerplug.library.presets import load_preset
from steerplug.preset import Preset
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Steering

N_VOCAB = 30
NO_READER = cast(Reader, None)
STEERED = Mix.of(Steering("planted", 8, 3, {1: Delta.constant(np.ones(8, np.float32))}))


# --- estimates


def test_a_ratio_is_that_of_the_sums() -> None:
    assert ratio([1, 2, 3], [2, 2, 8]).value == 0.5
    assert ratio([0, 0], [0, 0]) == NO_ESTIMATE
    assert ratio([], []) == NO_ESTIMATE
    assert ratio([1], [4]).interval is None  # one prompt says nothing about others


def test_prompts_that_agree_leave_no_doubt_and_prompts_that_do_not_leave_much() -> None:
    assert ratio([2, 2, 2], [4, 4, 4]).interval == (0.5, 0.5)
    low, high = ratio([0, 10] * 10, [10] * 20).interval or (0, 0)
    assert 0.2 < low < 0.4 < 0.6 < high < 0.8
    assert ratio([1, 3, 2, 5], [4, 5, 6, 7]) == ratio([1, 3, 2, 5], [4, 5, 6, 7])


def test_resamples_without_a_flip_are_left_out() -> None:
    estimate = ratio([1, 0, 0], [2, 0, 0])
    assert estimate.value == 0.5
    assert estimate.interval == (0.5, 0.5)


def test_the_interval_covers_the_truth_19_times_in_20() -> None:
    """The ratio of two correlated sums over 60 prompts, whose truth is 0.7."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        under = rng.gamma(4, 1, 60)
        over = 0.7 * under + rng.normal(0, 1, 60)
        low, high = ratio(over, under).interval or (0, 0)
        covered += low <= 0.7 <= high
        assert high - low < 0.3
    assert 53 <= covered <= 60  # 57 are expected; fewer than 53 happen once in 40 tries


def test_shares_have_wilsons_interval() -> None:
    estimate = share([True] * 8 + [False] * 2)
    assert estimate.value == 0.8
    assert estimate.interval == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson 1927, by hand
    assert share([True] * 12).interval == pytest.approx((0.7575, 1.0), abs=1e-4)
    assert share([]) == NO_ESTIMATE
    assert share([True]).interval is None  # one prompt says nothing about others


def test_answers_that_belong_together_are_one_term_of_a_share() -> None:
    """However many answers a term has, there are as many draws as terms."""
    assert share([20, 10], [20, 20]).interval == share([2, 1], [2, 2]).interval
    assert share([20] * 12, [20] * 12) == share([True] * 12)
    assert share([20], [20]).value == 1
    assert share([20], [20]).interval is None
    uneven = share([2, 2, 1], [2, 2, 1])  # 25 / 9 of equal ones: wider than of three
    lows = [(each.interval or (0,))[0] for each in (share([1, 1]), uneven, share([1, 1, 1]))]
    assert lows == sorted(set(lows))


def table(both: int, later: int, earlier: int, neither: int) -> tuple[list[int], list[int]]:
    """Answers of which so many are kept both times, later alone, earlier alone, and never."""
    none = [0] * neither
    return (
        [1] * both + [1] * later + [0] * earlier + none,
        [1] * both + [0] * later + [1] * earlier + none,
    )


def test_a_change_of_shares_has_newcombes_interval() -> None:
    estimate = share_change(*table(36, 12, 2, 0))
    assert estimate.value == pytest.approx(0.2)
    assert estimate.interval == pytest.approx((0.0569, 0.3404), abs=1e-4)  # Newcombe 1998
    assert share_change([], []) == NO_ESTIMATE
    assert share_change([1], [0]) == Estimate(1.0, None)


def test_shares_that_are_both_whole_leave_doubt_of_their_change() -> None:
    low, high = share_change(*table(50, 0, 0, 0)).interval or (0, 0)
    assert -0.08 < low < -0.06
    assert high == -low
    assert share_change([4, 4], [4, 4], [4, 4]) == share_change([1, 1], [1, 1])


def test_a_change_of_the_same_prompts_is_surer_than_of_others() -> None:
    same, others = table(20, 4, 0, 20), table(11, 13, 9, 11)
    (a, b), (c, d) = (share_change(*some).interval or (0, 0) for some in (same, others))
    assert share_change(*same).value == share_change(*others).value
    assert c < a < b < d



# --- replies


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3], (0, 0)),
        ([1, 2, 3, 4], (0, 1)),
        ([1, 2, 3, 4, 5, 1, 2, 3, 4], (1, 6)),
        ([7, 7, 7, 7, 7, 7], (2, 3)),
        ([1, 2, 1, 2, 1, 2, 1, 2], (3, 5)),
    ],
)
def test_repetition_by_hand(tokens: list[int], expected: tuple[int, int]) -> None:
    assert repeated(tokens) == expected


def test_replies_count_by_their_length() -> None:
    one = Quality.of([Reading(-2.0, 2, 0, 1), Reading(-28.0, 8, 3, 5), Reading(0.0, 0, 0, 0)])
    assert one.coherence.value == -3.0
    assert one.repetition.value == 0.5


def test_a_reply_is_read_by_the_bare_model(
    context: Context, engine: Engine, model: Model, plain_logits: Any
) -> None:
    """The mean log-probability equals that from llama.cpp on its own, by torch."""
    vocab = model.vocab
    bare = Prompt((vocab.bos, *vocab.tokenize("The sea is")), has_bos=True)
    tokens = tuple(vocab.tokenize(" blue and very wide"))
    logits = torch.from_numpy(plain_logits([*bare.tokens, *tokens]).astype(np.float64))
    rows = torch.log_softmax(logits, -1)[len(bare.tokens) - 1 : -1]
    expected = float(rows[range(len(tokens)), list(tokens)].sum())
    reading = read(Reader(context), JudgedReply(bare, tokens, ""))
    assert reading.log_prob == pytest.approx(expected, abs=0.05)
    assert (reading.n_tokens, reading.n_grams) == (len(tokens), len(tokens) - 3)
    assert read(Reader(context), JudgedReply(bare, (), "")) == Reading(0.0, 0, 0, 0)
    reply = greedy(engine, bare, n_tokens=4)
    assert len(reply.tokens) == 4
    assert reply.text == vocab.text(list(reply.tokens))


def test_json_is_asked_of_those_who_add_it() -> None:
    preset = load_preset("json-output")
    assert schema_of(preset, STEERED) is not None
    assert schema_of(preset, -1.0 * STEERED) is None
    assert schema_of(preset, NOTHING) is None
    assert schema_of(load_preset("pirate"), STEERED) is None


# --- planted rows


def distributions(seed: int, n_rows: int) -> NDArray[np.float64]:
    logits = 2 * np.random.default_rng(seed).standard_normal((n_rows, N_VOCAB))
    return cast(NDArray[np.float64], torch.log_softmax(torch.from_numpy(logits), -1).numpy())


def kl(p: Any, q: Any) -> NDArray[np.float64]:
    """KL(p || q) of each row, by torch."""
    p, q = torch.from_numpy(np.asarray(p, float)), torch.from_numpy(np.asarray(q, float))
    parts = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True)
    return cast(NDArray[np.float64], parts.sum(-1).numpy())


PROMPTED, BARE = 7, 8
LESSONS = [
    Lesson(Prompt((PROMPTED, question)), Prompt((BARE, question)), tuple(range(first, first + n)))
    for question, first, n in ((1, 10, 4), (2, 20, 6), (1, 30, 3), (3, 40, 5), (2, 50, 2))
]


class Planted:
    """Stands in for `reply_log_probs`; steering goes `share` of the way to the prompted model.

    In rows 0, 3, 6, ... the prompted model is the bare one, and steering adds `drift` there. In
    rows 1, 4, 7, ... it is nearly that.
    """

    def __init__(self, share: float, drift: float = 0.0) -> None:
        self.share, self.drift = share, drift

    def rows(self, reply: Sequence[int]) -> tuple[Any, Any, Any]:
        n = len(reply) + 1
        prompted, bare = distributions(reply[0], n), distributions(1000 + reply[0], n)
        prompted[1::3] = np.log(0.1 * np.exp(prompted[1::3]) + 0.9 * np.exp(bare[1::3]))
        prompted[::3] = bare[::3]
        steered = np.log(self.share * np.exp(prompted) + (1 - self.share) * np.exp(bare))
        pushed = steered + self.drift * np.arange(N_VOCAB) / N_VOCAB
        pushed -= np.log(np.exp(pushed).sum(-1, keepdims=True))
        steered[::3] = pushed[::3]
        return prompted, bare, steered

    def __call__(
        self, _reader: Reader, prompt: Prompt, reply: Sequence[int], mixes: Sequence[Mix]
    ) -> Iterator[Array]:
        prompted, bare, steered = self.rows(reply)
        for mix in mixes:
            own = prompted if prompt.tokens[0] == PROMPTED else steered if mix else bare
            yield own.astype(np.float32)


def plant(monkeypatch: pytest.MonkeyPatch, planted: Planted) -> None:
    for module in (measure, rows):
        monkeypatch.setattr(module, "reply_log_probs", planted)


def test_rows_are_compared_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(0.4, drift=2.0)
    plant(monkeypatch, planted)
    compared = list(rows.compare(NO_READER, LESSONS, STEERED, lambda *_: None))
    assert [lesson for lesson, _ in compared] == LESSONS
    for lesson, found in compared:
        prompted, bare, steered = planted.rows(lesson.reply)
        np.testing.assert_allclose(found.gap, kl(prompted, bare), atol=1e-5)
        np.testing.assert_allclose(found.left, kl(prompted, steered), atol=1e-5)
        np.testing.assert_allclose(found.drift, kl(bare, steered), atol=1e-5)
        np.testing.assert_array_equal(found.steered, steered.argmax(-1))


def test_every_figure_of_the_rows_is_what_its_definition_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planted = Planted(0.4, drift=2.0)
    plant(monkeypatch, planted)
    aside = [Lesson(Prompt((PROMPTED, 9)), Prompt((BARE, 9)), (60, 61, 62))]
    found = row_figures(NO_READER, LESSONS, aside, STEERED)
    prompted, bare, steered = (
        np.concatenate(parts)
        for parts in zip(*(planted.rows(one.reply) for one in LESSONS), strict=True)
    )
    gap, left = kl(prompted, bare), kl(prompted, steered)
    best, before, after = (one.argmax(-1) for one in (prompted, bare, steered))
    flips = best != before
    assert found["n_tokens"] == len(gap) == sum(one.n_rows for one in LESSONS)
    assert found["gap_closed"].value == pytest.approx(1 - left.sum() / gap.sum(), abs=1e-5)
    assert found["bare_kl"].value == pytest.approx(gap.mean(), abs=1e-5)
    assert found["top1_agreement"].value == pytest.approx((best == after).mean())
    assert found["flip_recovery"].value == pytest.approx((best == after)[flips].mean())
    assert 0 < found["flip_recovery"].value < 1
    prompted, bare, steered = (
        np.concatenate(parts)
        for parts in zip(*(planted.rows(one.reply) for one in [*LESSONS, *aside]), strict=True)
    )
    alone = kl(prompted, bare) < 0.01
    assert ((kl(prompted, bare) < 0.3) & ~alone).sum() > 3  # small, and not neutral
    assert found["neutral_kl"].value == pytest.approx(kl(bare, steered)[alone].mean(), abs=1e-5)
    for name in ("gap_closed", "bare_kl", "top1_agreement", "flip_recovery"):
        low, high = found[name].interval
        assert low < found[name].value < high


@pytest.mark.parametrize(("share", "closed"), [(1.0, 1.0), (0.0, 0.0)])
def test_a_perfect_stand_in_closes_the_gap_and_one_that_does_nothing_leaves_it(
    share: float, closed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, Planted(share))
    found = row_figures(NO_READER, LESSONS, [], STEERED)
    assert found["gap_closed"].value == pytest.approx(closed, abs=1e-5)
    assert found["flip_recovery"].value == closed
    assert (found["top1_agreement"].value == 1) == bool(closed)
    assert found["neutral_kl"].value == pytest.approx(0, abs=1e-5)


def test_intervals_are_over_prompts_not_over_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replies to one prompt stand or fall together."""
    plant(monkeypatch, Planted(0.4))
    compared = list(rows.compare(NO_READER, LESSONS, STEERED, lambda *_: None))
    sums = rows.per_prompt(compared, lambda one: np.ones(len(one.gap)))
    assert sums == [5 + 4, 7 + 3, 6]
    same = [one for one in LESSONS if one.bare.tokens[1] == 1]
    assert row_figures(NO_READER, same, [], STEERED)["gap_closed"].interval is None


def test_a_prompt_that_changes_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons = [Lesson(one.bare, one.bare, one.reply) for one in LESSONS]
    plant(monkeypatch, Planted(0.5))
    with pytest.raises(FitError, match="there is nothing to learn"):
        row_figures(NO_READER, lessons, [], STEERED)


# --- mixes


def test_a_mix_is_told_all_that_its_presets_say() -> None:
    pirate, answers = load_preset("pirate"), load_preset("json-output")
    both = mixed([pirate, answers, pirate], [True, True, True])
    assert pirate.teacher
    assert answers.teacher
    assert both.teacher
    assert both.teacher.system == f"{pirate.teacher.system}\n\n{answers.teacher.system}"
    assert both.teacher.examples == pirate.teacher.examples + answers.teacher.examples
    assert both.checks == pirate.checks + answers.checks
    assert both.decoding == answers.decoding
    assert mixed([pirate, answers], [True, False]) == pirate
    assert mixed([pirate], [False]) == pirate
    assert mixed([pirate, answers], [False, False]) == both
    assert mixed([pirate, load_preset("love-hate")], [True, True]).teacher == pirate.teacher


def test_a_mix_of_contrasts_has_all_their_pairs() -> None:
    one, two = load_preset("love-hate"), load_preset("anger-calm")
    assert one.contrast
    assert two.contrast
    whole = mixed([one, two], [True, True])
    assert whole.contrast
    assert whole.contrast.pairs == one.contrast.pairs + two.contrast.pairs


def test_a_mix_that_no_prompt_could_say_is_refused() -> None:
    turns = [{"user": f"q{i}", "assistant": "a"} for i in range(40)]
    many = [
        Preset.from_mapping({
            "schema": "steerplug/preset-v1", "name": name, "fit": {"method": "chain"},
            "teacher": {"examples": [{"user": name, "assistant": "a"}, *turns]},
        })
        for name in ("a", "b")
    ]  # fmt: skip
    with pytest.raises(PresetError, match="the mix"):
        mixed(many, [True, True])


# --- the real model, as a fit reads it


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "REPLY_TOKENS", 10)


QUESTIONS = ["How do boats float?", "What is the moon?"]
SHAPE = {
    "gap_closed", "bare_kl", "top1_agreement", "flip_recovery", "neutral_kl", "coherence",
    "checks", "dial", "damage", "prompt_tokens_saved", "n_prompts", "n_replies", "n_tokens",
}  # fmt: skip


def compiled(model: Model, name: str) -> Steering:
    """The shipped steering of a preset, read from its file."""
    from steerplug.library.presets import shipped_folder
    from steerplug.steering.file import read_steering

    path = next((shipped_folder() / "compiled").glob(f"*/{name}-*.gguf"))
    return read_steering(path, n_embd=model.n_embd, n_layer=model.n_layer)[0]


@pytest.mark.usefixtures("short")
def test_a_shipped_preset_is_most_of_its_prompt(
    quick_engine: Engine, quick_context: Context
) -> None:
    model, preset, told = quick_engine.model, load_preset("pirate"), set()
    found = measure_fidelity(
        preset, compiled(model, "pirate"), quick_engine, Reader(quick_context),
        Questions(QUESTIONS, ["Who rows a boat?"], ["What is 7 plus 5?"]), seed=1,
        report=lambda what, _, total: told.add((what, total)),
    )  # fmt: skip
    said = found.as_dict()
    assert set(said) - {f"{key}_interval" for key in SHAPE} == SHAPE
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert 0.4 < said["gap_closed"] < 1
    assert said["bare_kl"] > 0.5
    assert (said["n_prompts"], said["n_replies"], said["checks"]["n"]) == (2, 3, 3)
    assert said["checks"]["bare"] == 0
    assert said["coherence"]["bare"] > said["coherence"]["prompted"]
    assert said["coherence"]["repetition"]["bare"] == 0
    assert preset.teacher
    saved = len(model.vocab.tokenize(preset.teacher.system or ""))
    assert saved <= said["prompt_tokens_saved"] < 1000
    assert 4 * 2 < said["n_tokens"] <= 4 * 11
    assert (said["dial"], said["damage"]) == (None, None)
    asked = "asking the prompted model"
    assert told == {
        ("asking the bare model", 3), ("asking the steered model", 3), (asked, 2), (asked, 1),
        ("comparing token by token", 2 * 2 + 1), ("reading replies", 3),
    }  # fmt: skip


@pytest.mark.usefixtures("short")
def test_without_steering_the_bare_model_is_found(
    quick_engine: Engine, quick_context: Context
) -> None:
    preset = Preset.from_mapping({
        "schema": "steerplug/preset-v1", "name": "terse", "fit": {"method": "chain"},
        "teacher": {"system": "Answer in French."},
    })  # fmt: skip
    found = measure_fidelity(
        preset, NOTHING, quick_engine, Reader(quick_context), Questions(QUESTIONS[:1], [], [])
    )
    assert found.gap_closed.value == pytest.approx(0, abs=0.02)
    assert found.flip_recovery.value == 0
    assert found.coherence["steered"] == found.coherence["bare"]
    assert found.neutral_kl.value is None or found.neutral_kl.value < 0.02


@pytest.mark.usefixtures("short")
def test_a_contrast_has_a_dial_and_no_prompted_model(
    quick_engine: Engine, quick_context: Context
) -> None:
    model, preset = quick_engine.model, load_preset("love-hate")
    z = np.random.default_rng(0).normal(0, 3, model.n_embd).astype(np.float32)
    steering = Steering("random", model.n_embd, model.n_layer, {12: Delta.constant(z)})
    said = measure_fidelity(
        preset, steering, quick_engine, Reader(quick_context),
        Questions(QUESTIONS[:1], [], QUESTIONS[1:]),
    ).as_dict()
    assert set(said) - {f"{key}_interval" for key in SHAPE} == SHAPE
    assert [said[key] for key in ("gap_closed", "neutral_kl", "prompt_tokens_saved")] == [None] * 3
    assert said["coherence"]["prompted"] is None
    assert said["coherence"]["steered"] != said["coherence"]["bare"]
    assert said["dial"] < 0.5  # a random direction does not pull from hate to love
    assert said["damage"] > 0
