"""The torch copy is the model, or is refused: its logits beside llama.cpp's on 400 tokens.

llama.cpp is the oracle. An operation is computed otherwise on purpose, once, and the copy must then
be seen to be another model.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from steerplug.engine import kv_cache
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.errors import FitError, TorchCopyError
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill import agreement, computation, readable
from steerplug.fit.distill.distill import student_of
from steerplug.fit.distill.operations import OPERATIONS
from steerplug.fit.distill.student import Changes, Passage, Prefix, Student
from steerplug.fit.fit import fit_teacher
from steerplug.fit.progress import silent
from steerplug.preset import Preset
from tests.helpers.real_models import GEMMA_270M, QWEN_0_5B, RealModel, path_of
from tests.helpers.tiny_models import tiny_model

CPU = torch.device("cpu")
TURNED = ("llama3_rope", "llama32_rope", "qwen2_yarn", "gemma3_scaled", "phi3_longrope")


@pytest.fixture
def opened() -> Iterator[Callable[[str], tuple[Model, Reader]]]:
    """Open a tiny model, and a context to read it in."""
    models: list[Model] = []

    def open_one(name: str) -> tuple[Model, Reader]:
        models.append(Model(tiny_model(name)))
        return models[-1], Reader(Context(models[-1], n_ctx=1024, n_threads=1))

    yield open_one
    for model in models:
        model.close()


Opened = Callable[[str], tuple[Model, Reader]]


def refusal(opened: Opened, name: str) -> str:
    """Ask for the torch copy of a tiny model; return the sentence that refuses it."""
    with pytest.raises(TorchCopyError) as refused:
        student_of("glad", "psr", *opened(name))
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith("write `method: chain`, which needs llama.cpp alone.")
    assert f"({opened(name)[0].architecture})" in sentence
    return sentence


@pytest.mark.parametrize("name", TURNED)
def test_rotary_positions_are_llama_cpps_or_the_copy_is_refused(
    opened: Opened, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reader = opened(name)
    copy = Student(model, 1024, CPU)
    assert agreement.agreement(copy, model, reader).error < 2e-3
    turned = OPERATIONS["ROPE"]
    otherwise = {**OPERATIONS, "ROPE": lambda t, x, places, *_: turned(t, x, places // 2)}
    monkeypatch.setattr(computation, "OPERATIONS", otherwise)
    assert "is another model: its logits are" in refusal(opened, name)
    assert "% off llama.cpp's" in refusal(opened, name)


@pytest.mark.parametrize(("n_ctx", "other"), [(512, 1024), (1024, 512)])
def test_the_size_of_the_context_chooses_the_factors(
    opened: Opened, n_ctx: int, other: int
) -> None:
    """Phi 3's context of origin is 512 tokens here: llama.cpp turns otherwise in a longer one."""
    model, _ = opened("phi3_longrope")
    with reading(model, n_ctx) as reader:
        right, wrong = (Student(model, n, CPU) for n in (n_ctx, other))
        assert agreement.agreement(right, model, reader).error < 2e-3
        assert agreement.agreement(wrong, model, reader).error > 2e-2


@pytest.mark.parametrize(
    ("name", "operation"), [("gemma2", "UNARY"), ("gemma4", "RMS_NORM"), ("mamba", "SSM_SCAN")]
)
def test_an_operation_that_is_computed_otherwise_makes_another_model(
    opened: Opened, name: str, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = OPERATIONS[operation]
    otherwise = {**OPERATIONS, operation: lambda *given: 0.8 * own(*given)}
    monkeypatch.setattr(computation, "OPERATIONS", otherwise)
    assert "is another model" in refusal(opened, name)


def test_an_operation_that_torch_is_not_taught_is_refused_by_its_name(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: of for name, of in OPERATIONS.items() if name != "SSM_SCAN"}
    monkeypatch.setattr(computation, "OPERATIONS", known)
    assert "graph has `SSM_SCAN`, which torch is not taught; write" in refusal(opened, "mamba")


def test_where_activations_are_rounded_to_8_bits_divergence_alone_decides(opened: Opened) -> None:
    off = agreement.Agreement(kl=0.006, error=0.05)
    assert off.holds(coarse=True)
    assert not off.holds(coarse=False)
    assert not off._replace(kl=0.03).holds(coarse=True)
    header = opened("llama")[0].header
    assert not header.is_coarse
    assert type(header)({}, {**header.tensors, "blk.0.ffn_up.weight": 30}).is_coarse  # BF16


def a_preset(method: str) -> Preset:
    return Preset.model_validate({
        "schema": "steerplug/preset-v1", "name": "glad", "version": "1.0.0",
        "description": "Glad.", "license": "MIT", "teacher": {"system": "Be glad."},
        "fit": {"method": method},
    })  # fmt: skip


@pytest.mark.parametrize("why", ["operation", "memory", "cells", "agreement"])
def test_nothing_is_asked_of_the_model_before_the_copy_is_there(
    why: str, opened: Opened, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "llama3_rope" if why == "cells" else "mamba"
    if why == "operation":
        monkeypatch.delitem(OPERATIONS, "SSM_SCAN")
    if why == "memory":
        monkeypatch.setattr(readable, "available", lambda: 1)
    if why == "agreement":
        monkeypatch.setitem(OPERATIONS, "SSM_SCAN", lambda t, s, *_: s.new_zeros(t.shape))
    model, _ = opened(name)
    engine, kept = Engine(model, n_ctx=512, n_threads=1), Checkpoint(tmp_path / "glad-0.gguf")
    with reading(model, 512) as reader:
        if why == "cells":
            monkeypatch.setattr(kv_cache, "available", lambda: 1)
        with pytest.raises(FitError, match="`method: chain`"):
            fit_teacher(a_preset("psr"), engine, reader, kept, silent)
    assert not kept.replies
    assert engine.metrics().prompt_tokens == 0
    engine.close()


def test_the_copy_trains_in_the_quickest_type_after_it_was_compared_in_float32(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steerplug.fit.distill import student as students

    monkeypatch.setattr(students, "fastest_type", lambda _: torch.bfloat16)
    student = student_of("glad", "psr", *opened("llama"))
    assert student.dtype == torch.bfloat16
    read = student.hidden([Passage(Prefix(), (5, 6, 7), 0)])
    assert student.logits(read).dtype == torch.bfloat16


def test_of_the_cells_only_those_are_computed_with_that_a_batch_reads(opened: Opened) -> None:
    model, _ = opened("llama")
    student, seen = Student(model, 1024, CPU), list[torch.Tensor]()
    watched = Changes({name: seen.append for name in student.cells})
    student.hidden([Passage(Prefix(), (5, 6, 7), 0)], lambda _: watched)
    assert len(seen) == 2 * model.n_layer
    assert {cells.shape[2] for cells in seen} == {256}  # the fewest that llama.cpp looks through


@pytest.mark.parametrize(("real", "kl"), [(QWEN_0_5B, 0.005), (GEMMA_270M, 0.01)])
def test_the_copies_of_real_quantised_models_are_accepted(real: RealModel, kl: float) -> None:
    model = Model(path_of(real))
    with reading(model, 1024) as reader:
        copy = Student(model, 1024, CPU)
        found = agreement.agreement(copy, model, reader)
    assert found.kl < kl
    assert found.holds(coarse=model.header.is_coarse)
    model.close()
