"""All carriers trained alike: the same replies of the prompted model, the same loss and passes.

`psr` and `const` are the product's own, at the product's own rates; each rival's rate is sought.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from steerplug.benchmark.rivals.facts import Kind
from steerplug.benchmark.rivals.kv_prefix import KvPrefix
from steerplug.benchmark.rivals.lora import Lora
from steerplug.benchmark.rivals.soft_prompt import SoftPrompt
from steerplug.benchmark.rivals.tuning import Trainer, Tuned
from steerplug.fit.distill.deltas import Deltas
from steerplug.fit.distill.linear import Part
from steerplug.fit.distill.student import Passage, Prefix
from steerplug.fit.distill.training import QUICK_RATE, RATE, Exercise, prepare, sizes
from steerplug.fit.teacher import Lesson
from steerplug.preset import Preset
from steerplug.steering.value import Steering

RATES: dict[Kind, float] = {"soft prompt": 0.1, "K/V prefix": 0.1, "LoRA": 3e-3}
"""Where the search for a rate begins."""


@dataclass(frozen=True)
class Course:
    """Lessons made ready, for what steers and for what reads whole chats."""

    preset: Preset
    trainer: Trainer
    lessons: Sequence[Lesson]
    parts: dict[str, Part]
    steered: Sequence[Exercise]
    whole: Sequence[Exercise]

    @staticmethod
    def of(
        preset: Preset, trainer: Trainer, lessons: Sequence[Lesson], parts: dict[str, Part]
    ) -> "Course":
        """Read both sides of the lessons once."""
        steered = prepare(trainer.student, lessons, preset.scope, trainer.report)
        whole = [
            replace(each, bare=_whole(lesson))
            for each, lesson in zip(steered, lessons, strict=True)
        ]
        return Course(preset, trainer, lessons, parts, steered, whole)

    def steering(self, name: str, blocks: Sequence[int], *, gated: bool) -> tuple[Tuned, Steering]:
        """Return what `psr` or `const` makes of the lessons."""
        model, seed = self.trainer.student, self.preset.fit.seed
        n_embd, n_layer = int(model.head.weight.shape[1]), len(model.blocks)
        make = partial(
            Deltas, sizes(model, self.steered, blocks), n_embd, gated=gated, seed=seed
        )
        rate = QUICK_RATE if self.trainer.quick else RATE
        deltas, left = self.trainer.at(name, make, self.steered, rate)
        assert isinstance(deltas, Deltas)
        made = Steering(name, n_embd, n_layer, deltas.export(), self.preset.scope)
        return Tuned(deltas, rate, {rate: left}), made

    def soft_prompt(self, name: str, n: int) -> Tuned:
        """Return n embeddings."""
        make = partial(SoftPrompt, self.trainer.student, self.start(n))
        return self._tuned(name, "soft prompt", make)

    def kv_prefix(self, name: str, n: int) -> Tuned:
        """Return n cells."""
        make = partial(KvPrefix, self.trainer.student, self.start(n))
        return self._tuned(name, "K/V prefix", make)

    def lora(self, name: str, rank: int) -> Tuned:
        """Return adapters of a rank."""
        return self._tuned(name, "LoRA", partial(Lora, self.parts, rank, self.preset.fit.seed))

    def start(self, n: int) -> tuple[int, ...]:
        """Return the first token of the prompted chat, and the n after it."""
        return self.lessons[0].prompted.tokens[: 1 + n]

    def _tuned(self, name: str, kind: Kind, make: Callable[[], Any]) -> Tuned:
        return self.trainer.tuned(name, make, self.whole, RATES[kind])


def _whole(lesson: Lesson) -> Passage:
    """Return a bare chat and its reply from the first token on."""
    bare = lesson.bare.tokens
    return Passage(Prefix(), (*bare, *lesson.reply), len(bare) - 1)
