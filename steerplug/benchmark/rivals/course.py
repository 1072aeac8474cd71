"""All carriers trained alike: the same replies of the prompted model, the same loss and passes.

`psr` is trained as in the first round of a build; the rate of every other is sought.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from steerplug.benchmark.rivals.facts import Kind
from steerplug.benchmark.rivals.kv_prefix import KvPrefix
from steerplug.benchmark.rivals.lora import Lora
from steerplug.benchmark.rivals.soft_prompt import SoftPrompt
from steerplug.benchmark.rivals.tuning import Trainer, Tuned
from steerplug.chat.template import ChatTemplate
from steerplug.engine import requantised
from steerplug.engine.engine import Engine
from steerplug.engine.reader import Reader
from steerplug.fit.distill.deltas import Deltas
from steerplug.fit.distill.exercises import Exercises, bare_side, prepare, sizes
from steerplug.fit.distill.student import Passage, Prefix
from steerplug.fit.distill.training import FULL, QUICK
from steerplug.fit.effort import effort
from steerplug.fit.method import by_method
from steerplug.fit.progress import Report
from steerplug.fit.reply_cache import ReplyCache
from steerplug.fit.teacher import Lesson, teach
from steerplug.preset import Preset
from steerplug.steering.value import Scope, Steering

ALL: Scope = "all"
RATES: dict[Kind, float] = {"soft prompt": 1.0, "K/V prefix": 0.3, "LoRA": 3e-3}
"""Where the search for a rate begins."""


def lessons_of(
    preset: Preset, engine: Engine, reader: Reader, cache: ReplyCache, report: Report, *,
    quick: bool,
) -> list[Lesson]:  # fmt: skip
    """Return the lessons that a build by `psr` has.

    Args:
        preset: one with a teacher.
        engine: the model, to ask.
        reader: of another context on it.
        cache: replies that are not asked for again; new ones are put in.
        report: told how far it is.
        quick: whether to take the few of a quick fit.
    """
    assert preset.teacher is not None
    amount = effort(by_method(preset, "psr"), quick=quick)
    with requantised.quick(engine, reader) as (quick_engine, _):
        return amount.cut(teach(
            quick_engine, ChatTemplate.of(engine.model), preset.teacher, amount.questions,
            seed=preset.fit.seed, some=amount.some, cache=cache, report=report,
        ))  # fmt: skip


@dataclass(frozen=True)
class Course:
    """Lessons made ready, for what steers and for what reads whole chats.

    Args:
        preset: what all stand in for.
        trainer: trains them alike.
        lessons: what they learn from.
        matrices: of the blocks, (n_out, n_in) by name.
        steered: the lessons for steering, by its scope: the preset's, and "all".
        whole: the same for what reads whole chats.
    """

    preset: Preset
    trainer: Trainer
    lessons: Sequence[Lesson]
    matrices: Mapping[str, tuple[int, int]]
    steered: Mapping[Scope, Exercises]
    whole: Exercises

    @staticmethod
    def of(
        preset: Preset, trainer: Trainer, lessons: Sequence[Lesson]
    ) -> "Course":
        """Read both sides of the lessons once."""
        student = trainer.student
        ready = prepare(student, lessons, preset.scope, trainer.report)

        def on(bare: Sequence[Passage]) -> Exercises:
            return Exercises.of(
                [replace(each, bare=passage) for each, passage in zip(ready, bare, strict=True)]
            )

        steered = {preset.scope: Exercises.of(ready)}
        if ALL not in steered:
            steered[ALL] = on(bare_side(student, lessons, ALL))
        matrices = {
            name: shape for name, shape in student.matrices.items() if name.startswith("blk.")
        }
        return Course(preset, trainer, lessons, matrices, steered, on([*map(_whole, lessons)]))

    def steering(
        self, name: str, blocks: Sequence[int], scope: Scope, *, gated: bool
    ) -> tuple[Tuned, Steering]:
        """Return what gates or constants at some blocks make of the lessons."""
        student, seed, exercises = self.trainer.student, self.preset.fit.seed, self.steered[scope]
        n_embd, n_layer = student.model.n_embd, student.model.n_layer
        own = sizes(student, exercises.fit, blocks)
        make = partial(Deltas, own, n_embd, gated=gated, seed=seed)
        rate = (QUICK if self.trainer.quick else FULL).rate
        if gated:
            deltas, left = self.trainer.at(name, make, exercises, rate)
            tuned = Tuned(deltas, rate, {rate: left})
        else:
            tuned = self.trainer.tuned(name, make, exercises, rate)
        assert isinstance(tuned.trained, Deltas)
        steering = Steering(self.preset.name, n_embd, n_layer, tuned.trained.export(), scope)
        return tuned, steering

    def soft_prompt(self, n: int) -> Tuned:
        """Return n embeddings."""
        make = partial(SoftPrompt, self.trainer.student, self.start(n))
        return self._tuned(f"soft prompt of {n}", "soft prompt", make)

    def kv_prefix(self, n: int) -> Tuned:
        """Return n cells."""
        make = partial(KvPrefix, self.trainer.student, self.start(n))
        return self._tuned(f"K/V prefix of {n}", "K/V prefix", make)

    def lora(self, rank: int) -> Tuned:
        """Return adapters of a rank."""
        make = partial(Lora, self.matrices, rank, self.preset.fit.seed)
        return self._tuned(f"LoRA of rank {rank}", "LoRA", make)

    def start(self, n: int) -> tuple[int, ...]:
        """Return the first token of the prompted chat, and the n after it."""
        return self.lessons[0].prompted.tokens[: 1 + n]

    def _tuned(self, name: str, kind: Kind, make: Callable[[], Any]) -> Tuned:
        return self.trainer.tuned(name, make, self.whole, RATES[kind])


def _whole(lesson: Lesson) -> Passage:
    """Return a bare chat and its reply from the first token on."""
    bare = lesson.bare.tokens
    return Passage(Prefix(), (*bare, *lesson.reply), len(bare) - 1)
