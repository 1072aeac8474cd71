"""Rivals of steering: what torch trains is what llama.cpp computes, and training learns.

Oracles: llama.cpp with the adapter, the embeddings or the cells in place, against torch; and a
prefix that was not trained yet, which is the tokens that it starts from. The models are tiny.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from steerplug.benchmark.rivals import tuning
from steerplug.benchmark.rivals.carrier import Bench, Carrier
from steerplug.benchmark.rivals.cells import Fronted, blocks_of, trained_state
from steerplug.benchmark.rivals.course import Course
from steerplug.benchmark.rivals.kv_prefix import KvPrefix
from steerplug.benchmark.rivals.lora import Lora
from steerplug.benchmark.rivals.soft_prompt import SoftPrompt
from steerplug.benchmark.rivals.trained_carriers import train_all
from steerplug.benchmark.rivals.tuning import Trainer, next_rate
from steerplug.engine.loading import Loading
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.engine.scope import Prompt
from steerplug.errors import EngineError
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill import training
from steerplug.fit.distill.exercises import Exercises
from steerplug.fit.distill.student import Passage, Prefix, Student
from steerplug.fit.distill.trained import Trained
from steerplug.fit.progress import silent
from steerplug.library.presets import load_preset
from steerplug.steering.value import Array
from tests.fit.test_distill import random_lessons
from tests.helpers.oracle import relative
from tests.helpers.tiny_models import tiny_model

PROMPTED, BARE, REPLY = (1, 7, 8, 9, 10), (1, 20, 21, 22, 23), (30, 31, 32)
WHOLE = Passage(Prefix(), (*BARE, *REPLY), len(BARE) - 1)
CLOSE, APART = 2e-3, 0.02


class Tiny(NamedTuple):
    """A tiny model in llama.cpp and in torch, and contexts on it."""

    model: Model
    student: Student
    matrices: dict[str, tuple[int, int]]
    bench: Bench


@pytest.fixture(scope="module", params=["llama", "qwen2", "llama, no flash attention"])
def tiny(request: pytest.FixtureRequest) -> Iterator[Tiny]:
    """Queries and keys in two orders, and values that are kept transposed."""
    name, _, plain = request.param.partition(",")
    model = Model(tiny_model(name), Loading(flash_attn="off") if plain else Loading())
    student = Student(model, 256, torch.device("cpu"))
    bench = Bench(model, 256, 1, first=1)
    yield Tiny(model, student, student.matrices, bench)
    bench.close()
    model.close()


def by_torch(student: Student, trained: Trained) -> Array:
    with torch.no_grad():
        rows: Array = torch.log_softmax(student.logits(trained.read(student, [WHOLE])), -1).numpy()
    return rows


def by_llama(carrier: Carrier, tokens: Sequence[int] = BARE) -> Array:
    return carrier.log_probs(Prompt(tuple(tokens)), REPLY)


def move(trained: Trained, much: float) -> None:
    """Move what is trained far from its start, at random."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(much * torch.randn(parameter.shape, generator=random))


# What llama.cpp computes with what was trained


def test_a_lora_that_learned_nothing_is_the_bare_model_bit_for_bit(tiny: Tiny) -> None:
    lora = Lora(tiny.matrices, 2, seed=0)
    with torch.no_grad():
        bare, read = tiny.student.hidden([WHOLE]), lora.read(tiny.student, [WHOLE])
    assert torch.equal(bare, read)


def test_llama_cpp_computes_with_the_adapter_what_torch_does(tiny: Tiny, tmp_path: Path) -> None:
    lora = Lora(tiny.matrices, 2, seed=0)
    assert len(tiny.matrices) == 7 * tiny.model.n_layer
    move(lora, 0.1)
    lora.write(tmp_path / "lora.gguf", tiny.model.architecture)
    ours, bare = by_torch(tiny.student, lora), by_llama(tiny.bench.steered())
    adapted = by_llama(tiny.bench.adapted(tmp_path / "lora.gguf"))
    assert relative(adapted, ours) < CLOSE
    assert relative(adapted, bare) > APART
    half = by_llama(tiny.bench.adapted(tmp_path / "lora.gguf", 0.5))
    assert 0.1 < relative(half, bare) / relative(adapted, bare) < 0.95


def test_a_soft_prompt_starts_as_tokens_and_is_read_by_llama_cpp_as_by_torch(tiny: Tiny) -> None:
    soft = SoftPrompt(tiny.student, PROMPTED)
    tokens = by_llama(tiny.bench.steered(), [*PROMPTED, *BARE[1:]])
    assert relative(by_torch(tiny.student, soft), tokens) < CLOSE
    assert relative(by_llama(tiny.bench.soft(soft.export())), tokens) < CLOSE
    move(soft, 5)
    carrier = tiny.bench.soft(soft.export())
    for _ in range(2):  # what is in front stays when another text is read
        assert relative(by_llama(carrier), by_torch(tiny.student, soft)) < CLOSE
        assert relative(by_llama(carrier), tokens) > APART
        by_llama(carrier, (1, 40, 41))


def test_a_kv_prefix_starts_as_cells_and_is_restored_by_llama_cpp(
    tiny: Tiny, tmp_path: Path
) -> None:
    prefix, path = KvPrefix(tiny.student, PROMPTED), tmp_path / "prefix.bin"
    tokens = by_llama(tiny.bench.steered(), [*PROMPTED, *BARE[1:]])
    assert relative(by_torch(tiny.student, prefix), tokens) < CLOSE
    before = prefix.export()
    move(prefix, 5)
    after = prefix.export()

    def put(context: Fronted) -> None:
        context.put_state(trained_state(context.save_whole(0), before, after))

    assert tiny.bench.written(path, PROMPTED, put) == path.stat().st_size
    carrier = tiny.bench.restored(path)
    assert carrier.context.n_front == len(PROMPTED) - 1
    for _ in range(2):
        assert relative(by_llama(carrier), by_torch(tiny.student, prefix)) < CLOSE
        assert relative(by_llama(carrier), tokens) > APART
        by_llama(carrier, (1, 40, 41))


def test_cells_that_are_not_where_they_were_thought_are_refused(tiny: Tiny) -> None:
    cells = KvPrefix(tiny.student, PROMPTED).export()
    context = Fronted(tiny.model, n_ctx=256, n_threads=1)
    context.reader.hold([Row(token, i) for i, token in enumerate(PROMPTED)])
    state = context.save_whole(0)
    turned = [(keys[:, ::-1], values) for keys, values in cells]
    with pytest.raises(EngineError, match="keeps keys or values otherwise than torch"):
        trained_state(state, turned, cells)
    with pytest.raises(EngineError, match=f"cells of {len(cells)} blocks, not 1"):
        trained_state(state, cells[:1], cells[:1])
    with pytest.raises(EngineError, match="in a way that is not known here"):
        blocks_of(np.append(state, np.uint8(0)))
    with pytest.raises(EngineError, match="in a way that is not known here"):
        blocks_of(state[:-1])
    context.close()


def test_a_carried_reply_is_what_the_likeliest_tokens_make(tiny: Tiny) -> None:
    soft = SoftPrompt(tiny.student, PROMPTED)
    carrier, prompt = tiny.bench.soft(soft.export()), Prompt(BARE)
    reply = carrier.reply(prompt, 6)
    expected: list[int] = []
    while len(expected) < 6:  # token by token, all read anew
        rows = carrier.log_probs(prompt, expected)
        token = int(rows[-1].argmax())
        if tiny.model.vocab.ends_generation(token):
            break
        expected.append(token)
    assert list(reply) == expected


# What is learned


class Learning(NamedTuple):
    model: Model
    course: Course
    trainer: Trainer


@pytest.fixture(scope="module")
def learning(
    tiny_llama: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Learning]:
    """Random chats behind an instruction, in a model of random weights."""
    model = Model(tiny_llama(n_layer=3))
    student = Student(model, 256, torch.device("cpu"))
    kept = Checkpoint(tmp_path_factory.mktemp("kept") / "pirate-0.gguf")
    trainer = Trainer(student, 0, False, kept, silent)
    course = Course.of(load_preset("pirate"), trainer, random_lessons(14))
    yield Learning(model, course, trainer)
    model.close()


MAKE: dict[str, Callable[[Course], Trained]] = {
    "soft prompt": lambda course: SoftPrompt(course.trainer.student, course.start(4)),
    "K/V prefix": lambda course: KvPrefix(course.trainer.student, course.start(4)),
    "LoRA": lambda course: Lora(course.matrices, 2, 0),
}


@pytest.mark.parametrize(("kind", "much", "rate"), [("soft prompt", 5.0, 1.0),
                                                    ("K/V prefix", 5.0, 1.0),
                                                    ("LoRA", 0.3, 0.03)])  # fmt: skip
def test_what_was_planted_is_learned(
    learning: Learning, kind: str, much: float, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompted rows are those of a rival of its own kind, far from its start."""
    course, trainer = learning.course, learning.trainer
    one = replace(training.FULL, batch=1)  # few lessons are few steps
    monkeypatch.setattr(tuning, "FULL", one)
    make = partial(MAKE[kind], course)
    planted = make()
    move(planted, much)
    with torch.no_grad():
        exercises = Exercises(*(
            [replace(each, hidden=planted.read(trainer.student, [each.bare])) for each in some]
            for some in (course.whole.fit, course.whole.held_back)
        ))  # fmt: skip
    untrained = training.loss(trainer.student, exercises.held_back, make())
    _, left = trainer.at(kind, make, exercises, rate)
    assert untrained > 0.01
    assert left < 0.6 * untrained


def test_what_was_trained_before_is_taken_as_it_was(
    learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = partial(MAKE["LoRA"], learning.course)
    first, left = learning.trainer.at("LoRA", make, learning.course.whole, 0.01)
    monkeypatch.setattr(tuning, "train", None)  # it would be called
    again, same = learning.trainer.at("LoRA", make, learning.course.whole, 0.01)
    assert same == left
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("left", "following"),
    [
        ({1.0: 5.0}, 3.0),
        ({1.0: 5.0, 3.0: 6.0}, 1 / 3),
        ({1.0: 5.0, 3.0: 6.0, 1 / 3: 7.0}, None),
        ({1.0: 5.0, 3.0: 4.0, 1 / 3: 7.0}, 9.0),
        ({1.0: 5.0, 3.0: float("inf"), 1 / 3: 4.0}, 1 / 9),
        ({1.0: 5.0, 3.0: 4.0, 1 / 3: 7.0, 9.0: 4.5}, None),
        ({1.0: 5.0, 3.0: 4.0, 1 / 3: 7.0, 9.0: 3.0, 27.0: 2.0}, None),
    ],
)
def test_the_search_goes_on_until_the_best_rate_lies_between_two_worse(
    left: dict[float, float], following: float | None
) -> None:
    assert next_rate(left, 1.0) == (following and pytest.approx(following))


def test_the_best_of_the_rates_is_taken(
    learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {1.0: 5.0, 3.0: 4.0, 1 / 3: float("inf"), 9.0: 6.0}

    def at(_self: Trainer, *given: Any) -> tuple[Any, float]:
        return given[-1], losses[given[-1]]

    monkeypatch.setattr(Trainer, "at", at)
    make, none = partial(MAKE["LoRA"], learning.course), Exercises([], [])
    tuned = learning.trainer.tuned("LoRA", make, none, 1.0)
    assert (tuned.trained, tuned.rate, tuned.left) == (3.0, 3.0, losses)


def test_all_carriers_learn_from_the_same_and_a_prefix_weighs_as_much_as_a_preset(
    learning: Learning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    steered: dict[str, list[int]] = {}

    def at(_self: Trainer, name: str, make: Any, exercises: Any, _rate: float) -> Any:
        asked.append((name, len(exercises.fit) + len(exercises.held_back)))
        same = zip(exercises.fit, learning.course.whole.fit, strict=True)
        assert all(x.hidden is y.hidden for x, y in same)
        steered[name] = [len(each.bare.tokens) for each in exercises.fit]
        return make(), 1.0

    monkeypatch.setattr(Trainer, "at", at)
    monkeypatch.setattr(tuning, "_MOST", 1)
    monkeypatch.setattr(tuning, "next_rate", lambda *_: None)
    bench = Bench(learning.model, 128, 1, first=1)
    made = train_all(learning.course, bench, learning.model, tmp_path)
    bench.close()
    assert [n for _, n in asked] == [14] * 9
    psr, every = made["psr"], made["psr, all tokens"]
    assert psr.steering is not None
    assert every.steering is not None
    assert (psr.steering.scope, every.steering.scope) == ("response", "all")
    n_before = {len(each.bare.tokens) - 2 for each in learning.course.lessons}  # BOS, and boundary
    more = {b - a for a, b in zip(steered["psr, response"], steered["psr, all"], strict=True)}
    assert more == n_before
    heavy = [each for each in made.values() if each.kind == "K/V prefix"][-1]
    cell = 2 * 2 * 3 * 32  # keys and values in float16, of 3 blocks with 2 heads of 16
    assert psr.n_bytes - 2 * cell < heavy.n_bytes <= psr.n_bytes or heavy.n_cells == 16
