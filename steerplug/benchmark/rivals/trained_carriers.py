"""Every carrier trained, and exported for llama.cpp: steering, embeddings, a state, an adapter."""

from dataclasses import dataclass
from pathlib import Path

from steerplug.benchmark.rivals.carrier import Bench, Carrier
from steerplug.benchmark.rivals.cells import Fronted, trained_state
from steerplug.benchmark.rivals.course import ALL, Course
from steerplug.benchmark.rivals.facts import Kind
from steerplug.benchmark.rivals.kv_prefix import KvPrefix
from steerplug.benchmark.rivals.lora import Lora
from steerplug.benchmark.rivals.soft_prompt import SoftPrompt
from steerplug.benchmark.rivals.tuning import Tuned
from steerplug.engine.model import Model
from steerplug.fit.fit import blocks_of
from steerplug.preset import Preset
from steerplug.preset.methods import METHODS, MethodName, names_of
from steerplug.steering.file import write_steering
from steerplug.steering.identity import Identity, chat_template_hash
from steerplug.steering.value import Array, Scope, Steering
from steerplug.version import __version__

TRAINED = names_of(lambda method: method.needs_torch)
EMBEDDINGS, CELLS, RANKS = (1, 8), 8, (1, 8)


@dataclass(frozen=True)
class TrainedCarrier:
    """A carrier as it came of its training, and how it is put in place.

    Args:
        kind: of carrier.
        n_bytes: of its file.
        n_cells: that it adds to every chat.
        tuned: how it was trained.
        steering: if that is what it is.
        embeddings: of a soft prompt, (n, n_embd).
        file: of cells, or of an adapter.
    """

    kind: Kind
    n_bytes: int
    n_cells: int
    tuned: Tuned
    steering: Steering | None = None
    embeddings: Array | None = None
    file: Path = Path()

    @property
    def has_strength(self) -> bool:
        """Whether it can be put in place by half."""
        return self.kind in ("steering", "LoRA")

    def carrier(self, bench: Bench, strength: float = 1.0) -> Carrier:
        """Put it in place; what has no strength is there in full."""
        if self.steering is not None:
            return bench.steered(strength * self.steering)
        if self.embeddings is not None:
            return bench.soft(self.embeddings)
        if self.kind == "LoRA":
            return bench.adapted(self.file, strength)
        return bench.restored(self.file)


def train_all(
    course: Course, bench: Bench, model: Model, folder: Path
) -> dict[str, TrainedCarrier]:
    """Return all carriers by name, with their files in a folder."""
    scope = course.preset.scope
    made: dict[str, TrainedCarrier] = {
        method: _steering(course, model, folder, method, scope) for method in TRAINED
    }
    if scope != ALL:
        made["psr, all tokens"] = _steering(course, model, folder, "psr", ALL)
    for n in EMBEDDINGS:
        made[f"soft prompt {n}"] = _soft_prompt(course, n)
    for n in (CELLS, _as_heavy(bench, course, folder, made["psr"].n_bytes)):
        made[f"K/V prefix {n}"] = _kv_prefix(course, bench, folder, n)
    for rank in RANKS:
        made[f"LoRA rank {rank}"] = _lora(course, model, folder, rank)
    return made


def _steering(
    course: Course, model: Model, folder: Path, method: MethodName, scope: Scope
) -> TrainedCarrier:
    """Return what a method makes, written as a build does."""
    preset, blocks = course.preset, blocks_of(course.preset, model)
    is_gated = not METHODS[method].is_constant
    tuned, steering = course.steering(f"{method}, {scope}", blocks, scope, gated=is_gated)
    path = folder / f"{method}-{scope}.gguf"
    write_steering(path, steering, _identity(preset, model, method))
    return TrainedCarrier("steering", path.stat().st_size, 0, tuned, steering, file=path)


def _identity(preset: Preset, model: Model, method: MethodName) -> Identity:
    return Identity(
        preset.name, preset.version, preset.digest, model.fingerprint, model.architecture,
        chat_template_hash(model.chat_template), method, preset.fit.seed, __version__,
    )  # fmt: skip


def _soft_prompt(course: Course, n: int) -> TrainedCarrier:
    tuned = course.soft_prompt(n)
    assert isinstance(tuned.trained, SoftPrompt)
    embeddings = tuned.trained.export()
    return TrainedCarrier("soft prompt", embeddings.nbytes, n, tuned, embeddings=embeddings)


def _as_heavy(bench: Bench, course: Course, folder: Path, n_bytes: int) -> int:
    """Return how many cells a file of so many bytes holds behind the first token's."""
    one, two = (bench.written(folder / "cells.bin", course.start(n)) for n in (0, 1))
    most = len(course.lessons[0].prompted.tokens) - 1
    return max(min((n_bytes - one) // (two - one), most), 1)


def _kv_prefix(course: Course, bench: Bench, folder: Path, n: int) -> TrainedCarrier:
    """Return trained cells, written as cells of llama.cpp."""
    tuned, student = course.kv_prefix(n), course.trainer.student
    assert isinstance(tuned.trained, KvPrefix)
    before = KvPrefix(student, course.start(n)).to(student.device).export()
    after = tuned.trained.export()

    def put(context: Fronted) -> None:
        context.put_state(trained_state(context.save_whole(0), before, after))

    path = folder / f"prefix-{n}.bin"
    n_bytes = bench.written(path, course.start(n), put)
    return TrainedCarrier("K/V prefix", n_bytes, n, tuned, file=path)


def _lora(course: Course, model: Model, folder: Path, rank: int) -> TrainedCarrier:
    tuned, path = course.lora(rank), folder / f"lora-{rank}.gguf"
    assert isinstance(tuned.trained, Lora)
    tuned.trained.write(path, model.architecture)
    return TrainedCarrier("LoRA", path.stat().st_size, 0, tuned, file=path)
