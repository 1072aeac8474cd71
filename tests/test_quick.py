"""A quick build: a first file from a few replies, beside the full one that goes on from them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steerplug.build import build_preset, find_built, store_key
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.request import Request
from steerplug.evaluate import fidelity, quick_report, replies
from steerplug.fit import effort, measure, reply_cache
from steerplug.fit import fit as fitting
from steerplug.fit.distill import distill as trainer
from steerplug.fit.reply_cache import CachedReply, ReplyCache, name_of
from steerplug.fit.teacher import Lesson
from steerplug.preset import Preset
from steerplug.preset.methods import METHODS
from steerplug.steering.value import Steering
from steerplug.store.store import Store
from tests.helpers import small_builds


@pytest.fixture(scope="module")
def tiny() -> Iterator[Engine]:
    """A tiny model with random weights."""
    with small_builds.tiny_engine("llama") as engine:
        yield engine


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask few questions, of which a quick fit asks half; what comes of it is no matter."""
    small_builds.keep_anything(monkeypatch)
    small_builds.shorten_reports(monkeypatch, n_questions=4, n_swept=2, n_tokens=8)
    for module in (measure, fidelity):
        monkeypatch.setattr(module, "check_gap", lambda *_: None)
    monkeypatch.setitem(METHODS, "chain", replace(METHODS["chain"], n_questions=6, n_quick=3))
    monkeypatch.setattr(quick_report, "REPORTED", 2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model is asked."""
    names: list[str] = []

    def generate(engine: Engine, request: Request, *rest: Any, **named: Any) -> Any:
        names.append(name_of(request))
        return before(engine, request, *rest, **named)

    before = Engine.generate
    monkeypatch.setattr(Engine, "generate", generate)
    return names


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been asked and answered."""
    names: list[str] = []

    def ask(
        engine: Engine, request: Request, cache: ReplyCache | None = None, *rest: Any
    ) -> CachedReply:
        reply = before(engine, request, cache, *rest)
        names.append(name_of(request))
        return reply

    before = reply_cache.ask
    for module in (reply_cache, replies):
        monkeypatch.setattr(module, "ask", ask)
    return names


def preset(**changes: Any) -> Preset:
    reply = {
        "schema": "steerplug/preset-v1", "name": "glad", "version": "1.0.0", "description": "Glad.",
        "license": "MIT", "teacher": {"system": "Be glad."},
        "fit": {"method": "chain", "layers": [1, 2]},
    }  # fmt: skip
    return Preset.from_mapping({key: value for key, value in {**reply, **changes}.items() if value})


def test_the_full_fit_goes_on_from_the_replies_of_the_quick_one_and_takes_its_place(
    tiny: Engine, tmp_path: Path, asked: list[str]
) -> None:
    store = Store(tmp_path)
    first = build_preset(preset(), tiny, store=store, quick=True)
    assert first.is_quick
    assert not first.from_store
    assert len(asked) == 3 + 2
    assert first.identity.fidelity["n_prompts"] == 2
    assert first.identity.fidelity["checks"] is None
    assert first.identity.strength_default == 1
    for quick in (build_preset(preset(), tiny, store=store, quick=True),
                  find_built(preset(), tiny, store=store)):  # fmt: skip
        assert quick
        assert (quick.path, quick.is_quick, quick.from_store) == (first.path, True, True)
    assert find_built(preset(), tiny, store=store, quick=False) is None

    paid = set(asked)
    full = build_preset(preset(), tiny, store=store)
    assert not full.is_quick
    assert not paid & set(asked[len(paid) :])
    assert not list(tmp_path.rglob("*.npz"))
    assert first.path.exists()
    for found in (build_preset(preset(), tiny, store=store, quick=True),
                  find_built(preset(), tiny, store=store)):  # fmt: skip
        assert found
        assert found.path == full.path == store.path(store_key(preset(), tiny))


@pytest.mark.parametrize("quick", [True, False])
def test_figures_are_of_the_strength_that_the_preset_says(
    tiny: Engine, tmp_path: Path, quick: bool
) -> None:
    plain, weaker = (
        build_preset(each, tiny, store=Store(tmp_path / str(i)), quick=quick)
        for i, each in enumerate((preset(), preset(strength={"default": 0.25})))
    )
    of_plain, of_weaker = plain.identity.fidelity, weaker.identity.fidelity
    assert of_weaker["strength"] == 0.25
    assert of_plain["strength"] == plain.identity.strength_default
    assert abs(of_weaker["gap_closed"] - of_plain["gap_closed"]) > 0.1


def test_a_quick_training_learns_from_the_first_tokens_of_a_few_replies(
    tiny: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int, bool]] = []

    def distill(name: str, model: Model, *rest: Any, quick: bool, **named: Any) -> Steering:
        lessons = rest[1]
        given.append((len(lessons), max(len(each.reply) for each in lessons), quick))
        return before(name, model, *rest, quick=quick, **named)

    before = trainer.distill
    monkeypatch.setattr(fitting, "distill", distill)
    monkeypatch.setattr(effort, "QUICK_TOKENS", 2)
    monkeypatch.setitem(METHODS, "psr", replace(METHODS["psr"], n_questions=8, n_quick=4))
    wanted = preset(fit={"method": "psr", "layers": [1, 2]})
    quick, full = (build_preset(wanted, tiny, store=Store(tmp_path), quick=quick)
                   for quick in (True, False))  # fmt: skip
    (few, short, is_quick), (many, whole, full_is_quick) = given
    assert few <= 4 < many <= 8
    assert short == 2 < whole
    assert is_quick
    assert not full_is_quick
    assert (quick.is_quick, full.is_quick) == (True, False)
    assert {delta.act for delta in quick.steering.layers.values()} == {"relu"}


def test_a_full_training_has_a_second_round_on_what_the_steered_model_replies(
    tiny: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bool] = []

    def distill(*given: Any, replies_of: Any, **named: Any) -> Steering:
        def noted(steering: Steering) -> list[Lesson]:
            lessons: list[Lesson] = replies_of(steering)
            prompted = {each.prompted.tokens: each.reply for each in given[3]}
            heard.extend(prompted[each.prompted.tokens] != each.reply for each in lessons)
            return lessons

        return before(*given, replies_of=noted if replies_of else None, **named)

    before = trainer.distill
    monkeypatch.setattr(fitting, "distill", distill)
    monkeypatch.setitem(METHODS, "psr", replace(METHODS["psr"], n_questions=8, n_quick=4))
    wanted = preset(fit={"method": "psr", "layers": [1, 2]})
    build_preset(wanted, tiny, store=Store(tmp_path), quick=True)
    assert not heard
    told: list[str] = []
    build_preset(wanted, tiny, store=Store(tmp_path), report=lambda what, *_: told.append(what))
    assert any(heard)
    assert "training on replies of its own, pass 1 of 1" in told


def test_a_quick_fit_leaves_alone_what_an_interrupted_full_one_had_done(
    tiny: Engine, tmp_path: Path, asked: list[str]
) -> None:
    def interrupt(what: str, done: float, _total: int) -> None:
        if what.startswith("distilling") and done == 1:
            raise KeyboardInterrupt

    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build_preset(preset(), tiny, store=store, report=interrupt)
    del asked[:]
    quick = build_preset(preset(), tiny, store=store, quick=True)
    assert len(asked) == 2
    told: list[tuple[str, int, int]] = []
    full = build_preset(preset(), tiny, store=store, report=lambda *now: told.append(now))
    assert [done for what, done, _ in told if what.startswith("distilling")] == [1, 2]
    assert full.steering.digest != quick.steering.digest


@pytest.mark.parametrize(
    ("stage", "quick"),
    [
        ("trying strengths", False), ("asking the steered model", False),
        ("comparing token by token", False), ("comparing token by token", True),
    ],
)  # fmt: skip
def test_an_interrupted_report_asks_nothing_again(
    tiny: Engine, tmp_path: Path, asked: list[str], answered: list[str], stage: str, quick: bool
) -> None:
    paid = set[str]()

    def interrupt(what: str, done: float, _total: int) -> None:
        if what == stage and done:
            paid.update(answered)
            raise KeyboardInterrupt

    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build_preset(preset(), tiny, store=store, quick=quick, report=interrupt)
    assert len(paid) > (3 if quick else 6)
    del asked[:]
    build_preset(preset(), tiny, store=store, quick=quick)
    assert not paid & set(asked)


def test_a_contrast_is_built_in_full(tiny: Engine, tmp_path: Path) -> None:
    contrast = preset(
        teacher=None, contrast={"positive": ["glad"], "negative": ["sad"]},
        fit={"method": "mean", "layers": [1], "coefficient": 1.0},
    )  # fmt: skip
    built = build_preset(contrast, tiny, store=Store(tmp_path), quick=True)
    assert not built.is_quick
    assert built.path == Store(tmp_path).path(store_key(contrast, tiny))
