"""Distilling by gradient: what torch computes is what llama.cpp computes, and training learns.

The oracle of the forward pass is transformers' own on the whole text, loaded apart from steerplug;
that of the exported steering is llama.cpp. Both read a random float32 llama of 5 blocks, where no
rounding hides a wrong row, position or block. What is learned is a constant that was planted, then
the prompt of random chats; a real teacher of SmolLM2 is learned in tests/test_build.py.
"""

import copy
import itertools
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
import torch

from steerplug.engine.context import Context
from steerplug.engine.loading import Loading
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.engine.scope import Prompt
from steerplug.errors import FitError, StoreError
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill import readable, resuming, training, weights
from steerplug.fit.distill import student as students
from steerplug.fit.distill.deltas import Deltas
from steerplug.fit.distill.distill import distill, student_of
from steerplug.fit.distill.exercises import Exercise, Exercises, bare_side, prepare, sizes
from steerplug.fit.distill.gguf_reading import TensorReader
from steerplug.fit.distill.student import (
    Batch,
    Changes,
    Passage,
    Prefix,
    Student,
    unchanged,
)
from steerplug.fit.distill.training import FULL, QUICK, train
from steerplug.fit.measure import reply_log_probs
from steerplug.fit.progress import Report, at_once, silent
from steerplug.fit.teacher import Lesson
from steerplug.preset.methods import MethodName
from steerplug.steering.value import NOTHING, Mix, Scope, Steering
from tests.helpers.loras import write_lora
from tests.helpers.oracle import Oracle, relative
from tests.helpers.tiny_models import tiny_model
from tests.test_import import loaded_by

BOS, BOUNDARY = 1, 2
CPU, EXACT = torch.device("cpu"), Loading(type_k="f32", type_v="f32", flash_attn="off")
ALL_BLOCKS = range(5)


def random_lessons(count: int, seed: int = 0) -> list[Lesson]:
    """Chats of 3 to 9 random tokens, one instruction of 12 before each, replies of 1 to 8."""
    rng = np.random.default_rng(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(3, 96, n).tolist())

    instruction = tuple(np.random.default_rng(99).integers(3, 96, 12).tolist())
    lessons = []
    for _ in range(count):
        asked = (*tokens(int(rng.integers(3, 10))), BOUNDARY)
        lessons.append(Lesson(
            Prompt((BOS, *instruction, *asked), has_bos=True),
            Prompt((BOS, *asked), has_bos=True),
            tokens(int(rng.integers(1, 9))),
        ))
    return lessons


LESSONS = random_lessons(10)


class Tiny(NamedTuple):
    """The same random weights as steerplug trains through them, in llama.cpp and in the oracle."""

    model: Model
    student: Student
    reader: Reader
    oracle: Any


@pytest.fixture(scope="module")
def tiny(tiny_llama: Callable[..., Path]) -> Iterator[Tiny]:
    path = tiny_llama()
    model = Model(path, EXACT)
    context = Context(model, n_ctx=256, n_batch=64, n_threads=1)
    student = Student(model, 256, CPU)
    yield Tiny(model, student, Reader(context), Oracle(path).model)
    context.close()


def test_the_processor_alone_decides_in_which_type_it_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    for able, wanted in (
        ({"avx512_f": True, "cpu_name": "bf16"}, torch.float32),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"amx_bf16": False}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert weights.fastest_type(cpu) == wanted
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert weights.fastest_type(cpu) == torch.float32
    assert weights.fastest_type(torch.device("mps")) == torch.float32


@pytest.mark.parametrize("words", [{"lora": True}, {"rope_freq_scale": 0.5}])
def test_a_model_that_computes_otherwise_than_its_file_says_is_followed_as_well(
    tiny: Tiny, tiny_llama: Callable[..., Path], tmp_path: Path, words: dict[str, Any]
) -> None:
    (name,) = words
    lora = tmp_path / "lora.gguf"
    write_lora(lora)
    model = Model(tiny_llama(), Loading.of({**words, **({"lora": lora} if name == "lora" else {})}))
    readable.check_readable(model)
    with reading(model, 256) as reader:
        (wanted,) = reply_log_probs(reader, LESSONS[0].bare, LESSONS[0].reply, [NOTHING])
    found, plain = (
        torch.log_softmax(each.logits(hidden(each, bare_side(each, LESSONS[:1], "all"), 1)), -1)
        .detach().numpy()
        for each in (Student(model, 256, CPU), tiny.student)
    )  # fmt: skip
    assert relative(found, wanted) < 2e-3
    assert relative(plain, wanted) > 0.01
    model.close()


def test_all_but_lists_of_texts_is_read_as_gguf_reads_it() -> None:
    path = tiny_model("llama")
    ours, theirs = TensorReader(path), gguf.GGUFReader(path)
    assert list(ours.fields) == list(theirs.fields)
    kinds = set()
    for key, field in theirs.fields.items():
        value, kind = field.contents(), field.types
        kinds.add(tuple(kind))
        texts = kind == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING]
        assert ours.fields[key].types == kind
        assert ours.fields[key].contents() == (len(value) * [""] if texts else value), key
    assert {(9, 8), (9, 5), (8,), (4,), (6,)} <= kinds
    for a, b in zip(ours.tensors, theirs.tensors, strict=True):
        assert a.name == b.name
        assert np.array_equal(a.data, b.data)


# What the student computes


def plain(module: Any, prompt: Prompt, reply: Sequence[int]) -> torch.Tensor:
    """The rows of one lesson from transformers' own forward over the whole text."""
    with torch.no_grad():
        states = module.model(torch.tensor([[*prompt.tokens, *reply]])).last_hidden_state
    return states[0, len(prompt.tokens) - 1 :]


def hidden(student: Student, passages: Sequence[Passage], size: int) -> torch.Tensor:
    with torch.no_grad():
        parts = [student.hidden(passages[i : i + size]) for i in range(0, len(passages), size)]
    return torch.cat(parts).cpu()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("size", [1, 3, 10])
@pytest.mark.parametrize("scope", ["response", "all"])
def test_rows_behind_a_prefix_in_a_padded_batch_are_those_of_a_plain_forward(
    tiny: Tiny, scope: Scope, size: int
) -> None:
    exercises = prepare(tiny.student, LESSONS, scope, silent)
    bare = [exercise.bare for exercise in exercises]
    kept = [1 if scope == "all" else len(lesson.bare.tokens) - 1 for lesson in LESSONS]
    assert [passage.prefix.n_tokens for passage in bare] == kept
    expected = torch.cat([plain(tiny.oracle, x.bare, x.reply) for x in LESSONS])
    assert distance(hidden(tiny.student, bare, size), expected) < 2e-5


def test_the_prompted_rows_are_those_of_a_plain_forward(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Passage] = []
    read = tiny.student.hidden

    def noted(some: Sequence[Passage]) -> torch.Tensor:
        asked.extend(some)
        hidden: torch.Tensor = read(some)
        return hidden

    monkeypatch.setattr(tiny.student, "hidden", noted)
    exercises = prepare(tiny.student, LESSONS, "response", silent)
    expected = [plain(tiny.oracle, x.prompted, x.reply) for x in LESSONS]
    for exercise, rows in zip(exercises, expected, strict=True):
        assert distance(exercise.hidden.cpu(), rows) < 2e-5
    assert len(asked) == len(LESSONS)
    assert {passage.prefix.n_tokens for passage in asked} == {13}  # BOS and the instruction


def test_one_lesson_and_lessons_without_bos_are_prepared_as_well(tiny: Tiny) -> None:
    one = replace(LESSONS[0], bare=Prompt(LESSONS[0].bare.tokens))
    (exercise,) = prepare(tiny.student, [one], "all", silent)
    assert exercise.bare.prefix.n_tokens == 0
    assert distance(exercise.hidden.cpu(), plain(tiny.oracle, one.prompted, one.reply)) < 2e-5
    bare = hidden(tiny.student, [exercise.bare], 1)
    assert distance(bare, plain(tiny.oracle, one.bare, one.reply)) < 2e-5


def test_one_of_several_prefixes_may_be_of_no_token(tiny: Tiny) -> None:
    some, none = tiny.student.prefixes([(BOS, 7, 8), ()])
    assert (none.n_tokens, none.state, some.n_tokens) == (0, None, 3)
    text = (9, 10, 11)
    both = hidden(tiny.student, [Passage(none, (BOS, *text), 0), Passage(some, text, 0)], 2)
    alone = [Passage(Prefix(), (BOS, *text), 0), Passage(Prefix(), (BOS, 7, 8, *text), 3)]
    assert distance(both, hidden(tiny.student, alone, 1)) < 2e-5


def test_a_prompt_longer_than_a_sliding_window_is_kept_whole() -> None:
    model = Model(tiny_model("gemma3"), EXACT)
    student = Student(model, 256, CPU)
    text = tuple(np.random.default_rng(0).integers(20, 2000, 40).tolist())
    (prefix,) = student.prefixes([text[:30]])
    behind = hidden(student, [Passage(prefix, text[30:], 2)], 1)
    assert distance(behind, hidden(student, [Passage(Prefix(), text, 32)], 1)) < 1e-4
    model.close()


# What is exported


def strong(tiny: Tiny, exercises: Sequence[Exercise], layers: Sequence[int], gated: bool) -> Deltas:
    """Deltas of random parameters, as large as a quarter of the activations."""
    deltas = Deltas(sizes(tiny.student, exercises, layers), 64, gated=gated, seed=0)
    random = torch.Generator().manual_seed(5)
    spread = {"z": 2.5, "W": 1 / 8, "b": 0.5, "Z": 1.5}
    with torch.no_grad():
        for name, parameter in deltas.named_parameters():
            parameter.normal_(0, spread[name], generator=random)
    deltas.to(tiny.student.device)
    return deltas


@pytest.mark.parametrize("scope", ["response", "all"])
@pytest.mark.parametrize("gated", [True, False], ids=["gates", "constants"])
def test_llama_cpp_predicts_with_the_export_what_the_student_predicts(
    tiny: Tiny, gated: bool, scope: Scope
) -> None:
    exercises = prepare(tiny.student, LESSONS, scope, silent)
    deltas = strong(tiny, exercises, [0, 2, 4], gated)
    steering = Mix.of(Steering("strong", 64, 5, deltas.export(), scope))

    def steer(_: Batch) -> Changes:
        return tiny.student.at_blocks(deltas, [0, 2, 4])

    for lesson, exercise in zip(LESSONS, exercises, strict=True):
        ours = list(reply_log_probs(tiny.reader, lesson.bare, lesson.reply, [NOTHING, steering]))
        with torch.no_grad():
            bare, steered = (
                torch.log_softmax(tiny.student.logits(hidden), -1).cpu().numpy()
                for hidden in (
                    tiny.student.hidden([exercise.bare], by) for by in (unchanged, steer)
                )
            )
        assert relative(ours[0], bare) < 3e-4
        assert relative(ours[1], steered) < 3e-4
        assert relative(steered, bare) > 0.05


def test_a_blocks_size_is_the_median_rms_of_its_bare_rows(tiny: Tiny) -> None:
    found = sizes(tiny.student, prepare(tiny.student, LESSONS[:4], "response", silent), [1, 3])
    rms: dict[int, list[float]] = {1: [], 3: []}
    for lesson in LESSONS[:4]:
        with torch.no_grad():
            states = tiny.oracle.model(
                torch.tensor([[*lesson.bare.tokens, *lesson.reply]]), output_hidden_states=True
            ).hidden_states
        for il, rows in rms.items():  # states[0] is what the first block reads
            h = states[il + 1][0, len(lesson.bare.tokens) - 1 :].numpy()
            rows += np.sqrt((h**2).mean(-1)).tolist()
    # torch's median of an even count is the lower one
    assert list(found) == [1, 3]
    for il, rows in rms.items():
        assert found[il] == pytest.approx(sorted(rows)[(len(rows) - 1) // 2], rel=1e-4)


# What is learned


def divergence(tiny: Tiny, exercises: Sequence[Exercise], deltas: Deltas | None = None) -> float:
    """Mean KL(prompted || steered) over rows, in nats, one lesson at a time."""

    def steer(_: Batch) -> Changes:
        return Changes() if deltas is None else tiny.student.at_blocks(deltas, [*deltas.place])

    lost = []
    with torch.no_grad():
        for exercise in exercises:
            p, q = (
                torch.log_softmax(tiny.student.logits(h).double(), -1)
                for h in (exercise.hidden, tiny.student.hidden([exercise.bare], steer))
            )
            lost += (p.exp() * (p - q)).sum(-1).tolist()
    return float(np.mean(lost))


def new_deltas(
    tiny: Tiny, exercises: Sequence[Exercise], *, gated: bool, layers: Sequence[int] = ALL_BLOCKS
) -> Deltas:
    size = sizes(tiny.student, exercises, layers)
    deltas = Deltas(size, 64, gated=gated, seed=0)
    deltas.to(tiny.student.device)
    return deltas


@pytest.mark.parametrize("gated", [True, False], ids=["gates", "constants"])
def test_a_planted_constant_is_learned_and_holds_on_unseen_lessons(
    tiny: Tiny, gated: bool
) -> None:
    exercises = prepare(tiny.student, random_lessons(60, seed=1), "response", silent)
    size = sizes(tiny.student, exercises, [2])[2]
    signs = np.sign(np.random.default_rng(7).standard_normal(64))
    z = torch.tensor(0.01 * size * signs, dtype=torch.float32, device=tiny.student.device)
    with torch.no_grad():
        taught = [
            replace(x, hidden=tiny.student.hidden(
                [x.bare], lambda _: tiny.student.at_blocks(lambda _il, _h: z, [2])
            ))
            for x in exercises
        ]
    deltas = new_deltas(tiny, taught, gated=gated, layers=[2])
    train(tiny.student, Exercises.of(taught[:48]), deltas, FULL, 0, silent)
    unseen = taught[48:]
    assert divergence(tiny, unseen, deltas) < 0.05 * divergence(tiny, unseen)


@pytest.mark.parametrize("gated", [True, False], ids=["gates", "constants"])
def test_training_brings_the_bare_chat_nearer_to_the_prompted_one_on_unseen_lessons(
    tiny: Tiny, gated: bool
) -> None:
    schedule = replace(FULL, rate=0.05)  # few lessons are few steps
    exercises = prepare(tiny.student, random_lessons(36, seed=2), "all", silent)
    deltas = new_deltas(tiny, exercises, gated=gated)
    unseen = exercises[24:]
    before = divergence(tiny, unseen, deltas)
    train(tiny.student, Exercises.of(exercises[:24]), deltas, schedule, 0, silent)
    assert divergence(tiny, unseen, deltas) < 0.95 * before


def test_what_training_watches_is_the_loss_that_is_promised(tiny: Tiny) -> None:
    exercises = prepare(tiny.student, LESSONS, "response", silent)
    deltas = strong(tiny, exercises, [1, 3], gated=True)
    left = training.loss(tiny.student, exercises, deltas)
    assert left == pytest.approx(divergence(tiny, exercises, deltas), rel=1e-3)


@pytest.mark.parametrize("gated", [True, False], ids=["gates", "constants"])
def test_training_that_only_harms_leaves_the_parameters_as_they_were(
    tiny: Tiny, gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "DECAY", 0.0)  # 1000 times what is there leaves no number
    exercises = prepare(tiny.student, LESSONS, "response", silent)
    deltas = new_deltas(tiny, exercises, gated=gated)
    before = copy.deepcopy(deltas.state_dict())
    schedule = replace(FULL, rate=1000.0)
    train(tiny.student, Exercises.of(exercises), deltas, schedule, 0, silent)
    for name, parameter in deltas.state_dict().items():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize(
    ("losses", "best"),
    [((9, 5, 4, 3), 3), ((9, 5, 6, 1), 3), ((9, 10, 1, 1), 2), ((9, 5, 5, 6), 1),
     ((9, 9, 9, 9), 0)],
)
def test_the_parameters_after_the_best_epoch_are_kept_though_one_before_it_did_harm(
    tiny: Tiny, losses: tuple[int, ...], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exercises = prepare(tiny.student, LESSONS, "response", silent)
    deltas = new_deltas(tiny, exercises, gated=False)
    after: list[torch.Tensor] = []

    def left(*_: Any) -> float:
        after.append(deltas.z.detach().clone())
        return float(losses[len(after) - 1])

    monkeypatch.setattr(training, "loss", left)
    train(tiny.student, Exercises.of(exercises), deltas, FULL, 0, silent)
    assert len(after) == len(losses)
    assert torch.equal(deltas.z, after[best])
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(after))


@pytest.mark.parametrize("gated", [True, False], ids=["gates", "constants"])
def test_gates_that_learn_nothing_fade_and_constants_stay(
    tiny: Tiny, gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn_nothing(_student: Any, _batch: Any, deltas: Deltas) -> None:
        for parameter in deltas.parameters():
            parameter.grad = torch.zeros_like(parameter)

    losses = itertools.count(9.0, -1.0)
    monkeypatch.setattr(training, "_add_gradient", learn_nothing)
    monkeypatch.setattr(training, "loss", lambda *_: next(losses))
    exercises = prepare(tiny.student, LESSONS, "response", silent)
    deltas = strong(tiny, exercises, [1, 3], gated)
    before = copy.deepcopy(deltas.state_dict())
    train(tiny.student, Exercises.of(exercises), deltas, FULL, 0, silent)
    n_fit = len(exercises) - len(exercises[::12])
    n_steps = 3 * math.ceil(n_fit / 4)
    kept = math.prod(1 - 0.01 * (1 - step / n_steps) for step in range(n_steps)) if gated else 1.0
    for name, parameter in deltas.state_dict().items():
        assert torch.allclose(parameter, kept * before[name], rtol=1e-4, atol=0)


# The door: lessons in, steering out


@pytest.mark.parametrize("method", ["psr", "const"])
def test_the_same_seed_distils_the_same_and_another_seed_something_else(
    tiny: Tiny, method: MethodName
) -> None:
    def digest(seed: int) -> str:
        return distill(
            "t", tiny.model, tiny.student, LESSONS, [1, 3],
            method=method, scope="response", seed=seed,
        ).digest  # fmt: skip

    assert digest(3) == digest(3)
    assert digest(3) != digest(4)


@pytest.mark.parametrize("method", ["psr", "const"])
@pytest.mark.parametrize("layers", [[2], [0, 4]])
def test_only_the_blocks_that_were_asked_for_are_steered(
    tiny: Tiny, layers: list[int], method: MethodName
) -> None:
    told: list[tuple[str, float, int]] = []
    steering = distill(
        "arr", tiny.model, tiny.student, LESSONS, layers, method=method, scope="all",
        report=lambda *step: told.append(step),
    )  # fmt: skip
    assert list(steering.layers) == layers
    assert (steering.name, steering.n_embd, steering.n_layer, steering.scope) == (
        "arr", 64, 5, "all",
    )  # fmt: skip
    for delta in steering.layers.values():
        assert delta.n_units == (4 if method == "psr" else 0)
        assert np.abs(delta.Z if method == "psr" else delta.z).max() > 0
    assert ("reading the prompted model", 2, 2) in told
    assert ("training, pass 1 of 3", 3, 3) in told


def test_one_lesson_is_enough_to_learn_from(tiny: Tiny) -> None:
    steering = distill(
        "t", tiny.model, tiny.student, LESSONS[:1], [2], method="const", scope="response"
    )
    assert np.abs(steering.layers[2].z).max() > 0


# The second round


def second_round(
    tiny: Tiny, replies_of: Callable[[Steering], Sequence[Lesson]] | None,
    kept: Checkpoint | None = None, report: Report = silent,
) -> Steering:  # fmt: skip
    return distill(
        "t", tiny.model, tiny.student, LESSONS, [1, 3], method="psr", scope="response",
        replies_of=replies_of, kept=kept, report=report,
    )  # fmt: skip


def test_a_second_round_goes_on_with_what_the_steered_model_replied(tiny: Tiny) -> None:
    asked: list[Steering] = []

    def replies_of(steering: Steering) -> list[Lesson]:
        asked.append(steering)
        return random_lessons(12, seed=5)

    told: list[tuple[str, float, int]] = []
    first, twice = second_round(tiny, None), second_round(tiny, replies_of, report=_noting(told))
    assert [steering.digest for steering in asked] == [first.digest]
    n_fit = len(LESSONS) + 12 - len(LESSONS[::12]) - 1
    n_steps = math.ceil(n_fit / 4)
    assert ("training on replies of its own, pass 1 of 1", n_steps, n_steps) in told
    assert twice.digest != first.digest


def test_a_steered_model_that_replies_nothing_has_no_second_round(tiny: Tiny) -> None:
    assert second_round(tiny, lambda _: []).digest == second_round(tiny, None).digest


@pytest.mark.parametrize(("as_much", "n_asked"), [(1.01, 0), (0.99, 1)])
def test_a_first_round_that_leaves_little_of_the_untrained_loss_has_no_second(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, as_much: float, n_asked: int
) -> None:
    asked: list[Steering] = []

    def replies_of(steering: Steering) -> list[Lesson]:
        asked.append(steering)
        return []

    lessons = prepare(tiny.student, LESSONS, "response", silent)
    exercises, deltas = Exercises.of(lessons), new_deltas(tiny, lessons, gated=True, layers=[1, 3])
    untrained = training.loss(tiny.student, exercises.held_back, deltas)
    left = train(tiny.student, exercises, deltas, FULL, 0, silent)
    monkeypatch.setattr(training, "ENOUGH", as_much * left / untrained)
    second_round(tiny, replies_of)
    assert len(asked) == n_asked


def test_a_fit_that_was_ended_in_its_second_round_goes_on_there(
    tiny: Tiny, tmp_path: Path
) -> None:
    def replies_of(_: Steering) -> list[Lesson]:
        return random_lessons(12, seed=5)

    def end(what: str, done: float, _total: int) -> None:
        if what.startswith("training on replies of its own") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        second_round(tiny, replies_of, loaded(tmp_path / "arr-1a.gguf"), end)
    told: list[tuple[str, float, int]] = []
    kept = loaded(tmp_path / "arr-1a.gguf")
    again = second_round(tiny, replies_of, kept, _noting(told))
    trained = [(what, done) for what, done, _ in told if what.startswith("training")]
    assert trained[0] == ("training on replies of its own, pass 1 of 1", 2)
    assert again.digest == second_round(tiny, replies_of).digest
    assert not kept.training


# What is refused, each in one sentence


def test_nothing_heavy_is_loaded_before_it_is_used() -> None:
    modules = loaded_by("import steerplug.fit.distill.distill, steerplug.build")
    assert "steerplug" in modules
    assert not modules & {"torch", "transformers", "psutil"}


@pytest.mark.parametrize(
    ("absent", "named"),
    [(("torch",), "needs torch;"), (("torch", "psutil"), "needs torch and psutil;")],
)
def test_a_missing_package_is_named_with_the_extra_and_the_method_that_needs_none(
    absent: tuple[str, ...], named: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readable, "find_spec", lambda name: None if name in absent else name)
    with pytest.raises(FitError) as refused:
        student_of("arr", "psr", tiny.model, tiny.reader)
    for said in ("`arr`", "`psr`", named, "`pip install 'steerplug[fit]'`", "`method: chain`"):
        assert said in str(refused.value)


def test_a_model_that_memory_cannot_hold_is_refused_before_it_is_read(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readable, "available", lambda: 1_000_000_000)
    monkeypatch.setattr(students, "Recorder", None)
    with pytest.raises(FitError, match=r"about 1\.2 GB of memory, and 1\.0 GB are free; .*chain`"):
        student_of("arr", "psr", tiny.model, tiny.reader)


def test_on_a_card_it_is_the_cards_memory_that_counts(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100_000_000, 8_000_000_000))
    with pytest.raises(FitError, match=r"llama.*about 1\.2 GB of memory, and 0\.1 GB are free"):
        student_of("arr", "psr", tiny.model, tiny.reader)


def _noting(told: list[tuple[str, float, int]]) -> Report:
    return lambda *now: told.append(now)


def test_the_few_lessons_of_a_quick_fit_take_more_steps(tiny: Tiny) -> None:
    exercises = prepare(tiny.student, random_lessons(30, seed=2), "all", silent)
    for schedule, n_steps in ((FULL, 7), (QUICK, 14)):  # three of the lessons are held back
        told: list[tuple[str, float, int]] = []
        deltas = new_deltas(tiny, exercises, gated=True)
        train(tiny.student, Exercises.of(exercises), deltas, schedule, 0, _noting(told))
        assert {total for _, _, total in told} == {n_steps}


# A training that was interrupted


def trained(
    tiny: Tiny, exercises: list[Exercise], kept: Checkpoint | None, report: Report = silent
) -> dict[str, torch.Tensor]:
    deltas = new_deltas(tiny, exercises, gated=True)
    train(tiny.student, Exercises.of(exercises), deltas, FULL, 0, report, kept)
    return copy.deepcopy(deltas.state_dict())


def loaded(path: Path) -> Checkpoint:
    kept = Checkpoint(path)
    kept.load()
    return kept


@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_a_training_that_was_ended_in_its_third_pass_goes_on_there(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    exercises = prepare(tiny.student, random_lessons(30, seed=2), "all", silent)
    whole = trained(tiny, exercises, None)
    path, at_death = tmp_path / "arr-1a.gguf", tmp_path / "arr-2b.gguf"
    monkeypatch.setattr(resuming, "_EVERY", 0.0 if how == "killed" else 1e9)

    def end(what: str, done: float, _total: int) -> None:
        if what == "training, pass 3 of 3" and done == 4:
            if how == "killed":
                shutil.copy(tmp_path / "arr-1a.unfinished.npz", tmp_path / "kept")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tiny, exercises, loaded(path), end)
    if how == "killed":  # nothing that came after that moment was written
        (tmp_path / "kept").rename(tmp_path / "arr-2b.unfinished.npz")
        path = at_death
    told: list[tuple[str, float]] = []
    again = trained(tiny, exercises, loaded(path), lambda what, done, _: told.append((what, done)))
    assert {what for what, _ in told} == {"training, pass 3 of 3"}
    assert told[0][1] == 4
    for name, parameter in whole.items():
        assert torch.equal(again[name], parameter)


def test_a_training_on_other_lessons_begins_anew(tiny: Tiny, tmp_path: Path) -> None:
    exercises = prepare(tiny.student, random_lessons(30, seed=2), "all", silent)
    kept = loaded(tmp_path / "arr-1a.gguf")

    def end(_what: str, done: float, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tiny, exercises, kept, end)
    assert kept.training
    told: list[str] = []
    trained(tiny, exercises[:24], kept, lambda what, *_: told.append(what))
    assert told[0] == "training, pass 1 of 3"


def test_a_disk_that_fills_while_training_is_one_sentence_and_loses_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exercises = prepare(tiny.student, random_lessons(30, seed=2), "all", silent)
    monkeypatch.setattr(resuming, "_EVERY", 0.0)
    savez = np.savez

    def end(_what: str, done: float, _total: int) -> None:
        if done == 3:
            monkeypatch.setattr(np, "savez", full)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        trained(tiny, exercises, loaded(tmp_path / "arr-1a.gguf"), end)
    monkeypatch.setattr(np, "savez", savez)
    (progress,) = (array for name, array in loaded(tmp_path / "arr-1a.gguf").training.items()
                   if name.endswith("progress"))  # fmt: skip
    assert progress.tolist() == [3, 0]


def test_a_loss_that_is_no_number_is_refused(tiny: Tiny) -> None:
    exercises = prepare(tiny.student, LESSONS, "response", silent)
    deltas, schedule = new_deltas(tiny, exercises, gated=True), replace(FULL, rate=1e30)
    with pytest.raises(FitError, match="training did not converge; write `method: chain`"):
        train(tiny.student, Exercises.of(exercises), deltas, schedule, 0, silent)


# Asking many at once


def test_results_come_in_the_order_of_the_items_whichever_is_ready_first() -> None:
    last_is_done = threading.Event()

    def ask(i: int) -> int:
        if i == 9:
            last_is_done.set()
        assert last_is_done.wait(60)
        return i * i

    told: list[float] = []
    asked = at_once(ask, range(10), "asking", lambda _what, done, _total: told.append(done))
    assert asked == [i * i for i in range(10)]
    assert told == list(range(11))


def test_several_are_asked_at_the_same_time() -> None:
    meeting = threading.Barrier(8)
    arrived = at_once(lambda _: meeting.wait(60), range(8))  # alone, each would wait for ever
    assert sorted(arrived) == list(range(8))


def test_nothing_to_ask_is_an_empty_list() -> None:
    assert at_once(str, []) == []


@pytest.mark.parametrize("ends", ["error", "Ctrl-C"])
def test_the_first_error_ends_it_and_what_has_not_begun_is_not_asked(ends: str) -> None:
    begun, over = [], threading.Event()

    def ask(i: int) -> None:
        begun.append(i)
        if i == 0 and ends == "error":
            over.set()
            raise ValueError("no more")
        if i > 0 or ends == "error":
            over.wait(60)
            threading.Event().wait(0.3)  # time to be cancelled in

    def report(_what: str, done: float, _total: int) -> None:
        if ends == "Ctrl-C" and done == 1:
            over.set()
            raise KeyboardInterrupt

    with pytest.raises(ValueError if ends == "error" else KeyboardInterrupt):
        at_once(ask, range(300), "asking", report)
    assert len(begun) < 150
