"""From preset to steering: built once, found again, and refused in one sentence if it cannot be."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout

import steerplug
from steerplug import build
from steerplug.build import Built, build_preset, find_built, store_key
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.errors import FitError, SteeringError, StoreError, TorchCopyError
from steerplug.evaluate import dial
from steerplug.evaluate.questions import unseen
from steerplug.fit import difference, measure
from steerplug.fit import fit as fitting
from steerplug.fit import teacher as teaching
from steerplug.fit.chain import chain
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill import readable
from steerplug.fit.questions import for_choosing, general_prompts
from steerplug.fit.reply_cache import CachedReply
from steerplug.preset import Preset
from steerplug.preset.methods import CHOICES, METHODS, MethodName
from steerplug.steering.file import read_steering
from steerplug.steering.identity import Identity
from steerplug.steering.value import Delta, Steering
from steerplug.store.store import Store
from tests.helpers import small_builds


def preset(**changes: Any) -> Preset:
    """A contrast preset with explicit block and coefficient, which takes a second to build."""
    said: dict[str, Any] = {
        "schema": "steerplug/preset-v1",
        "name": "glad",
        "version": "1.2.3",
        "description": "Glad replies.",
        "license": "MIT",
        "contrast": {
            "positive": ["I am so glad today!", "What a joy!"],
            "negative": ["I am so sad today.", "What a misery."],
        },
        "fit": {"method": "mean", "layers": [12], "coefficient": 1.5},
        "strength": {"default": 0.8, "min": -1.0, "max": 2.0},
    }
    said.update(changes)
    return Preset.from_mapping({key: value for key, value in said.items() if value is not None})


def fit(**settings: Any) -> dict[str, Any]:
    return {"method": "mean", "layers": [12], "coefficient": 1.5, **settings}


SMALL = preset(fit=fit(layers=[2]))
"""For a model of four blocks."""

TEACHER = {"system": "You are a pirate. Answer like a pirate.",
           "examples": [{"user": "Hi", "assistant": "Ahoy, matey!"}]}  # fmt: skip


@pytest.fixture(scope="module")
def engine(quick_engine: Engine) -> Engine:
    """The model as a fit reads it."""
    return quick_engine


@pytest.fixture(scope="module")
def tiny_engine() -> Iterator[Engine]:
    with small_builds.tiny_engine("llama_untied") as engine:
        yield engine


@pytest.fixture
def tiny(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A model of random weights and four blocks; steering moves it any way."""
    small_builds.keep_anything(monkeypatch)
    return tiny_engine


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure few and short replies, and three strengths."""
    monkeypatch.setattr(measure, "OPENINGS", measure.OPENINGS[:1])
    small_builds.shorten_reports(monkeypatch, n_questions=1, n_swept=1, n_tokens=16)


@pytest.fixture(scope="module")
def glad(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Store]:
    store = Store(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "OPENINGS", measure.OPENINGS[:1])
        return build_preset(preset(), engine, store=store), store


def no_fit(*_: Any, **__: Any) -> Any:
    """Stand in for a step of a fit, or be told of one."""
    raise AssertionError("it was fitted again")


# A contrast


def test_a_contrast_is_built_as_its_preset_says(
    glad: tuple[Built, Store], engine: Engine
) -> None:
    built, _ = glad
    steering, model = built.steering, engine.model
    assert not built.from_store
    assert steering.name == "glad"
    assert (steering.n_embd, steering.n_layer) == (model.n_embd, model.n_layer)
    assert steering.scope == "response"
    assert list(steering.layers) == [12]
    assert np.linalg.norm(steering.layers[12].z) > 0.1


def test_its_identity_says_where_it_came_from(glad: tuple[Built, Store], engine: Engine) -> None:
    said = glad[0].identity
    assert (said.preset, said.preset_version, said.license) == ("glad", "1.2.3", "MIT")
    assert said.preset_digest == preset().digest
    assert said.model == engine.model.fingerprint
    assert said.architecture == "llama"
    assert said.method == "mean"
    assert said.steerplug_version == steerplug.__version__
    assert (said.strength_default, said.strength_min, said.strength_max) == (0.8, -1.0, 2.0)
    assert said.fidelity["coefficient"] == 1.5
    assert np.isfinite(said.fidelity["dial"])


def test_it_is_found_again_and_not_fitted(
    glad: tuple[Built, Store], engine: Engine
) -> None:
    built, store = glad
    again = build_preset(preset(), engine, store=store, report=no_fit)
    assert again.from_store
    assert again.steering.digest == built.steering.digest
    assert again.identity == built.identity
    path = store.path(store_key(preset(), engine))
    steering, identity = read_steering(
        path, n_embd=engine.model.n_embd, n_layer=engine.model.n_layer
    )
    assert (steering.digest, identity) == (built.steering.digest, built.identity)


def test_what_the_fit_does_not_read_changes_nothing(
    glad: tuple[Built, Store], engine: Engine
) -> None:
    other = preset(description="Other words.", version="2.0.0", strength={"default": 0.1})
    assert build_preset(other, engine, store=glad[1], report=no_fit).from_store


def test_force_builds_it_again_over_the_old_file(tiny: Engine, store: Store) -> None:
    built = build_preset(SMALL, tiny, store=store)
    again = build_preset(SMALL, tiny, store=store, force=True)
    assert not again.from_store
    z, expected = (b.steering.layers[2].z for b in (again, built))
    assert np.linalg.norm(z - expected) < 0.02 * np.linalg.norm(expected)
    assert build_preset(SMALL, tiny, store=store).from_store


def test_a_forced_build_holds_the_lock_so_that_two_cannot_share_their_work(
    engine: Engine, store: Store
) -> None:
    path = store.path(store_key(preset(), engine))

    def locked(*_: Any) -> Any:
        with pytest.raises(Timeout):
            FileLock(f"{path}.lock").acquire(timeout=0)
        raise FitError("it was held")

    with pytest.raises(FitError, match="it was held"):
        build_preset(preset(), engine, store=store, force=True, report=locked)


def test_a_torn_file_is_built_again_with_a_warning(
    tiny: Engine, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.path(store_key(SMALL, tiny))
    path.parent.mkdir()
    path.write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        assert not build_preset(SMALL, tiny, store=store).from_store
    assert "Made again." in caplog.text
    assert build_preset(SMALL, tiny, store=store).from_store


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """What is shipped with steerplug, which is nothing yet."""
    monkeypatch.setattr("steerplug.library.compiled.shipped_folder", lambda: tmp_path / "shipped")
    return Store(tmp_path / "shipped" / "compiled")


def test_what_was_built_here_goes_before_what_shipped_whoever_looks(
    glad: tuple[Built, Store], engine: Engine, shipped: Store, tmp_path: Path
) -> None:
    built, store = glad
    key = store_key(preset(), engine)
    shipped.publish(key, built.steering, built.identity)
    for look in (partial(build_preset, report=no_fit), find_built):
        for here, expected in ((store, store), (Store(tmp_path / "empty"), shipped)):
            there = look(preset(), engine, store=here)
            assert there is not None
            assert there.path == expected.path(key)


def test_what_shipped_damaged_is_refused_and_not_made_again(
    engine: Engine, store: Store, shipped: Store
) -> None:
    path = shipped.path(store_key(preset(), engine))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"torn")
    for look in (partial(build_preset, report=no_fit), find_built):
        with pytest.raises(SteeringError, match=r"torn|not a GGUF|damaged"):
            look(preset(), engine, store=store)


@pytest.mark.parametrize(
    "changes",
    [
        {"contrast": {"positive": "I am so glad!", "negative": "I am so sad."}},
        {"fit": fit(layers=[13])},
        {"fit": fit(coefficient=2.5)},
        {"fit": fit(method="pca")},
        {"fit": fit(seed=7)},
        {"scope": "all"},
        {"name": "gladder"},
    ],
)
def test_an_edited_preset_has_another_file(
    changes: dict[str, Any], engine: Engine, store: Store
) -> None:
    one, other = (store.path(store_key(p, engine)) for p in (preset(), preset(**changes)))
    assert one != other


def test_the_coefficient_scales_what_strength_1_adds(
    glad: tuple[Built, Store], engine: Engine, store: Store
) -> None:
    double = build_preset(preset(fit=fit(coefficient=3.0)), engine, store=store).steering
    single = glad[0].steering.layers[12].z
    assert np.linalg.norm(double.layers[12].z - 2 * single) < 0.02 * np.linalg.norm(single)


@pytest.mark.parametrize("method", ["mean", "pca"])
def test_several_blocks_are_steered_together(method: str, tiny: Engine, store: Store) -> None:
    wanted = preset(fit=fit(method=method, layers=[1, 2], coefficient=0.5))
    assert list(build_preset(wanted, tiny, store=store).steering.layers) == [1, 2]


def test_actadd_steers_the_front(engine: Engine, store: Store) -> None:
    wanted = preset(
        contrast={"positive": "Love", "negative": "Hate"},
        fit={"method": "actadd", "layers": [10], "coefficient": 3.0},
    )
    steering = build_preset(wanted, engine, store=store).steering
    assert steering.scope == "front"
    assert steering.n_positions == 3
    assert not steering.layers[10].z[0].any()


def test_a_block_is_found_where_layers_are_left_to_auto(engine: Engine, store: Store) -> None:
    told: list[tuple[str, float, int]] = []
    wanted = preset(fit={"method": "mean", "layers": "auto", "coefficient": 1.0})
    built = build_preset(wanted, engine, store=store, report=lambda *now: told.append(now))
    (il,) = built.steering.layers
    assert 1 <= il < engine.model.n_layer - 1
    assert {what for what, _, _ in told} >= {"reading activations", "measuring blocks"}
    assert all(0 <= done <= total for _, done, total in told)


def test_the_dial_tells_the_right_way_from_the_wrong_one(
    glad: tuple[Built, Store], engine: Engine, store: Store
) -> None:
    """The contrast turned round has its own dial; both work, and each the other way."""
    turned = preset(contrast={
        "positive": list(preset().contrast.negative),  # type: ignore[union-attr]
        "negative": list(preset().contrast.positive),  # type: ignore[union-attr]
    })  # fmt: skip
    other = build_preset(turned, engine, store=store)
    a, b = glad[0].steering.layers[12].z[0], other.steering.layers[12].z[0]
    assert a @ b < -0.99 * np.linalg.norm(a) * np.linalg.norm(b)
    assert glad[0].identity.fidelity["dial"] > 0
    assert other.identity.fidelity["dial"] > 0


# A teacher


OWN_QUESTIONS = ["What is rain?", "Name a colour.", "How do boats float?"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The questions of each round of teaching."""
    rounds: list[tuple[str, ...]] = []

    def teach(engine: Any, template: Any, teacher: Any, questions: Any, **rest: Any) -> Any:
        rounds.append(tuple(questions))
        return teaching.teach(engine, template, teacher, questions, **rest)

    monkeypatch.setattr("steerplug.fit.fit.teach", teach)
    return rounds


def test_a_teacher_is_fitted_on_its_own_questions_and_measured_on_unseen_ones(
    engine: Engine, store: Store, asked: list[tuple[str, ...]]
) -> None:
    wanted = preset(contrast=None, teacher=TEACHER, fit=fit(prompts=OWN_QUESTIONS))
    built = build_preset(wanted, engine, store=store)
    assert asked[0] == tuple(OWN_QUESTIONS)
    assert len(asked[1]) == 1
    assert set(asked[1]) <= set(general_prompts("held_out"))
    assert not set(asked[1]) & set(unseen(wanted, 1000))
    assert list(built.steering.layers) == [12]
    assert 0 < built.identity.fidelity["gap_closed"] < 1
    assert build_preset(wanted, engine, store=store).from_store


@pytest.mark.parametrize(("n_own", "n_asked"), [(1, 1), (31, 31), (33, 32), (100, 32), (1000, 32)])
def test_many_questions_are_thinned_out_over_the_whole_list(
    n_own: int, n_asked: int, tiny: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[tuple[str, ...]] = []

    def teach(_engine: Any, _template: Any, _teacher: Any, questions: Any, **_: Any) -> Any:
        rounds.append(tuple(questions))
        raise FitError("enough")

    monkeypatch.setattr("steerplug.fit.fit.teach", teach)
    own = [f"Question {i}?" for i in range(n_own)]
    wanted = preset(contrast=None, teacher=TEACHER, fit=fit(layers=[2], prompts=own))
    with pytest.raises(FitError, match="enough"):
        build_preset(wanted, tiny, store=store)
    (asked,) = rounds
    assert len(asked) == n_asked
    assert len(set(asked)) == n_asked
    assert n_own < 64 or own.index(asked[-1]) >= n_own * 0.9


def test_gates_are_trained_and_measured_in_llama_cpp(model: Model, store: Store) -> None:
    """On the model's very file: torch reads its 4 bits, and a quick copy answers."""
    engine = Engine(model, n_ctx=1024, n_threads=1)
    own = list(general_prompts("fit")[::60])
    wanted = preset(
        contrast=None, teacher=TEACHER, fit={"method": "psr", "layers": "auto", "prompts": own},
        strength={"min": 0.0, "max": 2.0},
    )
    built = build_preset(wanted, engine, store=store)
    assert list(built.steering.layers) == list(range(1, engine.model.n_layer - 1))
    assert {delta.act for delta in built.steering.layers.values()} == {"relu"}
    said = built.identity.fidelity
    assert 0.3 < said["gap_closed"] < 1
    assert [point["strength"] for point in said["sweep"]["points"]] == [0, 1, 2]
    assert said["prompt_tokens_saved"] > 10
    assert (said["n_prompts"], said["n_replies"]) == (1, 2)
    engine.close()


def test_an_interrupted_fit_goes_on_where_it_was(
    tiny: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = preset(
        contrast=None, teacher=TEACHER,
        fit={"method": "chain", "layers": [1, 2, 3], "prompts": OWN_QUESTIONS},
    )  # fmt: skip

    def interrupt(what: str, done: float, _total: int) -> None:
        if what.startswith("distilling") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_preset(wanted, tiny, store=store, report=interrupt)
    kept = Checkpoint(store.path(store_key(wanted, tiny)))
    kept.load()
    assert (len(kept.replies), list(kept.deltas)) == (3, [1, 2])

    caches: list[dict[str, CachedReply]] = []
    told: list[tuple[str, float]] = []

    def teach(*given: Any, **rest: Any) -> Any:
        caches.append(dict(rest.get("cache") or {}))
        return teaching.teach(*given, **rest)

    monkeypatch.setattr("steerplug.fit.fit.teach", teach)
    built = build_preset(
        wanted, tiny, store=store, report=lambda what, done, _: told.append((what, done))
    )
    assert caches[0] == kept.replies
    assert [done for what, done in told if what.startswith("distilling")] == [2, 3]
    for il in (1, 2):
        assert np.array_equal(built.steering.layers[il].W, kept.deltas[il].W)
    assert not list(store.folder.rglob("*.npz"))


def test_replies_that_were_paid_for_outlive_a_refusal_of_the_torch_copy(
    tiny: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = preset(contrast=None, teacher=TEACHER, fit={"method": "psr"})
    kept = Checkpoint(store.path(store_key(wanted, tiny)))
    store.folder.mkdir(parents=True, exist_ok=True)
    kept.load()
    kept.replies["0"] = CachedReply((5, 6, 7), "")
    monkeypatch.setattr(readable, "_WORKING_BYTES", 2**60)
    with pytest.raises(TorchCopyError, match=r"GB of memory, and [\d.]+ GB are free"):
        build_preset(wanted, tiny, store=store)
    again = Checkpoint(store.path(store_key(wanted, tiny)))
    again.load()
    assert again.replies == {"0": CachedReply((5, 6, 7), "")}


def test_an_unfinished_fit_waits_while_memory_lasts_for_another_method_alone(
    tiny: Engine, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = preset(contrast=None, teacher=TEACHER, fit={"method": "auto", "layers": [1, 2]})
    path = store.path(store_key(wanted, tiny, "psr"))
    kept = Checkpoint(path, model=tiny.model.fingerprint, method="psr")
    kept.load()
    kept.keep_training({"best": np.array(0.5)})
    monkeypatch.setattr(readable, "available", lambda: 1)
    with contextlib.suppress(FitError):  # a tiny model learns nothing
        build_preset(wanted, tiny, store=store)
    assert kept.is_there
    assert "unfinished fit by `psr`, which waits while it is fitted by `chain` (it" in caplog.text


def test_a_chain_that_memory_is_too_short_for_is_refused_before_anything_is_asked(
    tiny: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = preset(contrast=None, teacher=TEACHER, fit={"method": "chain", "layers": [1, 2]})
    path = store.path(store_key(wanted, tiny, "chain"))
    monkeypatch.setattr(chain, "available", lambda: 1)
    with pytest.raises(FitError, match=r"takes about 0\.\d GB of memory .* 0\.0 GB are free; end"):
        build_preset(wanted, tiny, store=store)
    assert not Checkpoint(path, model=tiny.model.fingerprint, method="chain").is_there


def test_the_default_strength_is_measured_unless_the_preset_says_one(
    glad: tuple[Built, Store]
) -> None:
    built = glad[0]
    measured = replace(built, identity=replace(built.identity, strength_default=1.5))
    assert measured.default_strength(preset()) == 0.8
    assert measured.default_strength(preset(strength={"max": 2.0})) == 1.5


def test_what_is_reported_on_was_neither_fitted_nor_used_to_choose() -> None:
    own = list(general_prompts("held_out")[:10])
    for one in (preset(), preset(fit=fit(prompts=own))):
        reported = {*unseen(one, 1000), *unseen(one, 1000, "neutral")}
        assert not reported & {*for_choosing(one, 1000), *general_prompts("fit")}
        assert one.fit.prompts == "general" or not reported & set(own)


# What cannot be built


@pytest.mark.parametrize("method", ["psr", "const"])
def test_without_torch_a_preset_that_needs_it_is_refused_before_any_work(
    method: str, engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "generate", no_fit)
    monkeypatch.setattr(readable, "find_spec", lambda _: None)
    wanted = preset(contrast=None, teacher=TEACHER, fit={"method": method})
    with pytest.raises(FitError, match=r"needs torch and .*pip install 'steerplug\[fit\]'.* chain"):
        build_preset(wanted, engine, store=store)
    assert not list(store.folder.rglob("*.gguf"))


# Methods


@dataclass
class Tried:
    """The methods that a build tried, in place of fits; the first so many cannot be used."""

    refuse: int = 0
    methods: list[str] = field(default_factory=list)

    def __call__(self, preset: Preset, *_: Any, **__: Any) -> Steering:
        self.methods.append(preset.fit.method)
        if len(self.methods) <= self.refuse:
            raise TorchCopyError("the torch copy is another model.")
        raise FitError("enough.")


@pytest.mark.parametrize(
    ("said", "asked", "refuse", "methods"),
    [
        ("auto", None, 0, ["psr"]),
        ("auto", None, 1, ["psr", "chain"]),
        ("auto", "chain", 0, ["chain"]),
        ("psr", "auto", 1, ["psr", "chain"]),
        ("psr", "chain", 0, ["chain"]),
        ("psr", None, 1, ["psr"]),
        ("mean", "psr", 0, ["psr"]),
    ],
)
def test_the_best_method_that_can_be_used_is_tried(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch,
    said: str, asked: MethodName | None, refuse: int, methods: list[str],
) -> None:  # fmt: skip
    tried = Tried(refuse)
    monkeypatch.setattr(build, "fit_teacher", tried)
    wanted = preset(contrast=None, teacher=TEACHER, fit={"method": said})
    with pytest.raises(FitError, match=r"enough|another model"):
        build_preset(wanted, engine, store=store, method=asked)
    assert tried.methods == methods


def test_without_torch_auto_is_chain(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = Tried()
    monkeypatch.setattr(build, "fit_teacher", tried)
    monkeypatch.setattr(readable, "find_spec", lambda _: None)
    with pytest.raises(FitError, match="enough"):
        build_preset(preset(contrast=None, teacher=TEACHER, fit={}), engine, store=store)
    assert tried.methods == ["chain"]


def test_auto_and_what_it_may_choose_are_one_recipe() -> None:
    auto, none, psr, chain = (
        preset(contrast=None, teacher=TEACHER, fit=fit).digest
        for fit in ({"method": "auto"}, {}, {"method": "psr"}, {"method": "chain"})
    )
    assert auto == none == psr != chain


@pytest.mark.parametrize(("gaps", "best"), [((0.8, 0.9), "chain"), ((0.9, 0.8), "psr")])
def test_of_two_files_the_one_that_closes_more_is_taken(
    engine: Engine, store: Store, gaps: tuple[float, float], best: str
) -> None:
    wanted = preset(contrast=None, teacher=TEACHER, fit={})
    for method, gap in zip(CHOICES, gaps, strict=True):
        key = store_key(wanted, engine, method)
        steering = Steering("sad", 576, 30, {9: Delta.constant(np.ones(576, np.float32))})
        identity = Identity(
            wanted.name, wanted.version, wanted.digest, key.model, engine.model.architecture,
            key.chat_template, method, 0, "0.1.0", 1.0, 0.0, 2.0, fidelity={"gap_closed": gap},
        )  # fmt: skip
        store.publish(key, steering, identity)
    found = find_built(wanted, engine, store=store)
    assert found
    assert found.identity.method == best
    asked = build_preset(wanted, engine, store=store, method="chain", report=no_fit)
    assert asked.identity.method == "chain"


@pytest.mark.parametrize(
    ("method", "told"),
    [("actadd", "method `actadd` makes nothing of a"), ("psrr", "there is no method `psrr`")],
)
def test_a_method_that_is_not_for_it_is_one_sentence(
    engine: Engine, store: Store, method: Any, told: str
) -> None:
    with pytest.raises(FitError, match=told):
        build_preset(
            preset(contrast=None, teacher=TEACHER, fit={}), engine, store=store, method=method
        )


def test_a_teacher_that_changes_nothing_is_refused_before_anything_is_fitted(
    tiny: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "distill", no_fit)
    own_words = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    wanted = preset(
        contrast=None, teacher={"system": own_words},
        fit={"method": "psr", "prompts": OWN_QUESTIONS},
    )  # fmt: skip
    with pytest.raises(FitError, match=r"there is nothing to learn: .* by -?0\.00\d+ nats"):
        build_preset(wanted, tiny, store=store)
    assert not list(store.folder.rglob("*.npz"))  # nothing to go on with


def test_what_brings_the_model_no_nearer_to_the_prompt_is_not_kept(
    tiny: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_way(rows: Any) -> Any:
        return {il: -2 * z for il, z in difference_mean(rows).items()}

    difference_mean = difference.mean
    monkeypatch.setattr(difference, "mean", wrong_way)
    monkeypatch.setattr(build, "check_gap_closed", dial.check_gap_closed)
    wanted = preset(contrast=None, teacher=TEACHER, fit=fit(layers=[2], prompts=OWN_QUESTIONS))
    with pytest.raises(FitError, match=r"`glad` was fitted, but closes -\d+% of the gap"):
        build_preset(wanted, tiny, store=store)
    assert not list(store.folder.rglob("*.gguf"))


def turned(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    """Let what is fitted be this many times what it is."""
    fitted = difference.mean
    monkeypatch.setattr(
        difference, "mean", lambda rows: {il: times * z for il, z in fitted(rows).items()}
    )


def test_a_contrast_that_turns_the_wrong_way_is_refused_and_not_kept(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned(monkeypatch, -1)
    said = r"^`glad` does not work on SmolLM2[^;]* \(by -\d+% of what .* a teacher instead\.$"
    with pytest.raises(FitError, match=said):
        build_preset(preset(), engine, store=store)
    assert not list(store.folder.rglob("*.gguf"))


def test_a_contrast_that_does_nothing_is_refused_also_where_it_was_kept_before(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned(monkeypatch, 0)
    monkeypatch.setattr(build, "check_dial", lambda *_: None)  # as it was
    assert build_preset(preset(), engine, store=store).identity.fidelity["dial"] <= 0
    monkeypatch.undo()
    for use in (build_preset, find_built):
        with pytest.raises(FitError, match=r"`glad` does not work on SmolLM2.* \(by -?0% of"):
            use(preset(), engine, store=store)


def test_a_contrast_that_hardly_does_anything_is_said_to(
    engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    build_preset(preset(), engine, store=store)
    assert "hardly" not in caplog.text
    monkeypatch.setattr(dial, "WEAK", 1.0)
    build_preset(preset(), engine, store=store)
    assert "`glad` hardly does anything on SmolLM2" in caplog.text


@pytest.mark.parametrize("changes", [{}, {"contrast": None, "teacher": TEACHER}])
def test_a_block_beyond_the_model_is_refused_before_any_work(
    changes: dict[str, Any], engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "generate", no_fit)
    wanted = preset(**changes, fit=fit(layers=[3, 30, 31]))
    with pytest.raises(FitError, match=r"asks for block 30, but .* has blocks 0 to 29; write `lay"):
        build_preset(wanted, engine, store=store)


@pytest.mark.parametrize("layers", [[0], [3], [0, 3]])
def test_the_first_and_the_last_block_can_be_steered(
    layers: list[int], tiny: Engine, store: Store
) -> None:
    wanted = preset(fit=fit(layers=layers, coefficient=1.0))
    assert list(build_preset(wanted, tiny, store=store).steering.layers) == layers


def test_a_coefficient_that_garbles_the_model_is_refused(engine: Engine, store: Store) -> None:
    with pytest.raises(FitError, match="`glad` garbles this model at every block tried"):
        build_preset(preset(fit=fit(coefficient=500.0)), engine, store=store)


def test_what_fails_leaves_nothing_behind(tiny: Engine, store: Store) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(difference, "mean", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_preset(SMALL, tiny, store=store)
    assert not list(store.folder.rglob("*.gguf*tmp"))
    assert not list(store.folder.rglob("*.gguf"))
    assert not build_preset(SMALL, tiny, store=store).from_store


def test_a_folder_that_cannot_be_written_is_one_sentence(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be used .*set STEERPLUG_CACHE to a folder"):
        build_preset(preset(), engine, store=Store(tmp_path / "file"))


def test_the_key_holds_all_that_the_numbers_depend_on(engine: Engine) -> None:
    key = store_key(preset(), engine)
    assert key.model == engine.model.fingerprint
    assert key.fit_version == METHODS[preset().fit.method].version
    assert key.preset_digest == preset().digest
    assert len(key.chat_template) == 64
    assert all(astuple(key)[:-1])
    assert not key.quick
