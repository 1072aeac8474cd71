"""The reported fidelity, once more by a program that knows the published file format alone.

A shipped file is read with the package gguf, and its numbers are applied in transformers, on the
model's weights dequantised to float32, as the docstrings of steering/file.py and steering/value.py
say. On the same lessons, the share of the gap that it closes there is the one that steerplug
measures in llama.cpp, where activations are quantised as well.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
import torch

from steerplug.build import store_key
from steerplug.chat.template import ChatTemplate
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.evaluate.questions import QUESTIONS, unseen
from steerplug.fit.measure import gaps_closed
from steerplug.fit.teacher import Lesson, teach
from steerplug.library.presets import load_preset, shipped_folder
from steerplug.preset.preset import Preset
from steerplug.session import Session
from steerplug.steering.file import read_steering
from steerplug.store.store import Store
from tests.conftest import N_THREADS
from tests.helpers.oracle import Oracle
from tests.helpers.real_models import QWEN_0_5B, path_of

N_QUESTIONS, N_TOKENS = 2, 16
AGREED = 0.02
"""What the issue promises."""


class Published(NamedTuple):
    """A steering file: what its keys say, and its tensors by name."""

    keys: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def strength(self) -> float:
        return float(self.keys["steerplug.strength_default"])

    def added(self, il: int, h: torch.Tensor) -> torch.Tensor:
        """z + Z^T . act(W . norm(h) + b) of block `il`, for its output h, (n_tokens, n_embd)."""
        z, W, b, Z = (self.tensors.get(f"blk.{il}.{name}") for name in "zWbZ")
        change = torch.zeros_like(h) if z is None else z.expand_as(h)
        if W is None or b is None or Z is None:
            return change
        read = {
            "rms": h / h.square().mean(dim=1, keepdim=True).sqrt(),
            "none": h,
        }[self.keys[f"steerplug.blk.{il}.norm"]]
        units = read @ W.T + b
        units = {"relu": units.clamp(min=0), "identity": units}[
            self.keys[f"steerplug.blk.{il}.act"]
        ]
        return change + units @ Z

    def acts_on(self, lesson: Lesson) -> list[bool]:
        """Whether each token of the bare chat and the reply is in the file's scope."""
        boundary = len(lesson.bare.tokens) - 1
        n = boundary + lesson.n_rows
        if self.keys["steerplug.scope"] == "response":
            return [i >= boundary for i in range(n)]
        assert self.keys["steerplug.scope"] == "all"
        return [i > 0 or not lesson.bare.has_bos for i in range(n)]


def read_published(path: Path) -> Published:
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {t.name: torch.from_numpy(np.array(t.data, np.float32)) for t in reader.tensors}
    assert keys["general.architecture"] == "steerplug"
    return Published(keys, tensors)


@contextlib.contextmanager
def applied(module: Any, file: Published, acts: Sequence[bool]) -> Iterator[None]:
    """Within it, `module` computes with the file's steering at its default strength."""
    rows = torch.tensor(acts)[:, None]
    blocks = sorted({int(name.split(".")[1]) for name in file.tensors})
    with contextlib.ExitStack() as hooks:
        for il in blocks:

            def steer(_m: Any, _i: Any, output: Any, il: int = il) -> Any:
                h = output[0] if isinstance(output, tuple) else output
                new = (h[0] + rows * file.strength * file.added(il, h[0]))[None]
                return (new, *output[1:]) if isinstance(output, tuple) else new

            hooks.callback(module.model.layers[il].register_forward_hook(steer).remove)
        yield


def log_probs(module: Any, tokens: Sequence[int], n_rows: int) -> torch.Tensor:
    """What the last rows of a text predict, (n_rows, n_vocab), in float64."""
    with torch.no_grad():
        logits = module(torch.tensor([list(tokens)]), logits_to_keep=n_rows).logits[0]
    return torch.log_softmax(logits.double(), dim=-1)


def gap_closed(module: Any, file: Published, lessons: Sequence[Lesson]) -> float:
    """1 - sum KL(prompted || steered) / sum KL(prompted || bare)."""
    gap = left = 0.0
    for lesson in lessons:
        prompted, chat = (
            (*prompt.tokens, *lesson.reply) for prompt in (lesson.prompted, lesson.bare)
        )
        p = log_probs(module, prompted, lesson.n_rows)
        bare = log_probs(module, chat, lesson.n_rows)
        with applied(module, file, file.acts_on(lesson)):
            steered = log_probs(module, chat, lesson.n_rows)
        gap += float((p.exp() * (p - bare)).sum())
        left += float((p.exp() * (p - steered)).sum())
    return 1 - left / gap


@pytest.fixture
def module(smollm2_oracle: Any) -> Any:
    """SmolLM2 in transformers, in float32."""
    return smollm2_oracle.model


def shipped(name: str) -> Preset:
    return load_preset(str(shipped_folder() / f"{name}.yaml"))


def compared(
    preset: Preset, path: Path, module: Any, engine: Engine, context: Context
) -> tuple[float, float]:
    """The gap that a file closes on unseen questions: in transformers, and as steerplug says."""
    model: Model = engine.model
    assert preset.teacher is not None
    lessons = teach(
        engine, ChatTemplate.of(model), preset.teacher,
        unseen(preset, QUESTIONS)[:: QUESTIONS // N_QUESTIONS], seed=0, n_tokens=N_TOKENS,
    )  # fmt: skip
    assert len(lessons) == N_QUESTIONS
    file = read_published(path)
    steering, _ = read_steering(path, n_embd=model.n_embd, n_layer=model.n_layer)
    (reported,) = gaps_closed(Reader(context), lessons, [file.strength * steering])
    return gap_closed(module, file, lessons), float(reported)


@pytest.mark.parametrize("name", ["formal"])
def test_transformers_agrees_with_the_report_from_the_file_format_alone(
    name: str, module: Any, engine: Engine, context: Context
) -> None:
    path = Store(shipped_folder() / "compiled").path(store_key(shipped(name), engine))
    assert path.is_file(), "the shipped file is of another version of the preset: build it again"
    independent, reported = compared(shipped(name), path, module, engine, context)
    assert reported > 0.5
    assert abs(independent - reported) < AGREED


def test_so_it_does_on_a_qwen_for_which_a_file_was_built_just_now(tmp_path: Path) -> None:
    gguf_file, preset = path_of(QWEN_0_5B), shipped("pirate")
    with closing(Session(str(gguf_file), store=Store(tmp_path), n_ctx=1024)) as session:
        path = session.build(preset, quick=True).path
        engine = session.engine
        context = Context(engine.model, n_ctx=512, n_batch=128, n_seq=2, n_threads=N_THREADS)
        independent, reported = compared(
            preset, path, Oracle(gguf_file).model, engine, context
        )
        context.close()
    assert reported > 0.5
    assert abs(independent - reported) < AGREED
