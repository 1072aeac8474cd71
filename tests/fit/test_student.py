"""The torch copy is the model, or is refused: its logits beside llama.cpp's on 400 tokens.

llama.cpp is the oracle. What each file states of its function is left out on purpose, once, and the
copy must then be seen to be another model.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.errors import FitError, TorchCopyError
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill import agreement, configuration, readable, weights
from steerplug.fit.distill.distill import student_of
from steerplug.fit.distill.readable import unreadable
from steerplug.fit.distill.student import Student
from steerplug.fit.fit import fit_teacher
from steerplug.fit.progress import silent
from steerplug.preset import Preset
from tests.helpers.real_models import GEMMA_270M, QWEN_0_5B, RealModel, path_of
from tests.helpers.tiny_models import tiny_model

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
def test_rotary_positions_are_those_of_the_file_or_the_copy_is_refused(
    opened: Opened, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reader = opened(name)
    copy = Student(*weights.read_weights(model, 1024))
    assert agreement.agreement(copy, model, reader).error < 2e-3
    monkeypatch.setattr(weights, "turn_alike", lambda *_: None)
    assert "is another model: its logits are" in refusal(opened, name)
    assert "% off llama.cpp's" in refusal(opened, name)


@pytest.mark.parametrize(("n_ctx", "other"), [(512, 1024), (1024, 512)])
def test_the_size_of_the_context_chooses_the_factors(
    opened: Opened, n_ctx: int, other: int
) -> None:
    """Phi 3's context of origin is 512 tokens here: llama.cpp turns otherwise in a longer one."""
    model, _ = opened("phi3_longrope")
    with reading(model, n_ctx) as reader:
        right, wrong = (Student(*weights.read_weights(model, n)) for n in (n_ctx, other))
        assert agreement.agreement(right, model, reader).error < 2e-3
        assert agreement.agreement(wrong, model, reader).error > 2e-2


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_queries_are_scaled_by_the_size_of_a_head_or_the_copy_is_refused(
    opened: Opened, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "_query_scale", lambda _: 256)
    assert "is another model" in refusal(opened, name)


def test_the_27b_models_scale_queries_by_width_and_heads(opened: Opened) -> None:
    model, _ = opened("gemma3_256")
    assert configuration._query_scale(model) == 256
    model.n_layer = 62
    assert configuration._query_scale(model) == 64 // 4


@pytest.mark.parametrize("name", ["gemma2", "gemma4"])
def test_logits_are_capped_as_the_file_says_or_the_copy_is_refused(
    opened: Opened, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Student, "logits", lambda self, hidden: self.head(hidden))
    assert "is another model" in refusal(opened, name)


def test_where_activations_are_rounded_to_8_bits_divergence_alone_decides(opened: Opened) -> None:
    off = agreement.Agreement(kl=0.006, error=0.05)
    assert off.holds(coarse=True)
    assert not off.holds(coarse=False)
    assert not off._replace(kl=0.03).holds(coarse=True)
    header = opened("llama")[0].header
    assert not header.is_coarse
    assert type(header)({}, {**header.tensors, "blk.0.ffn_up.weight": 30}).is_coarse  # BF16


@pytest.mark.parametrize("name", ["gpt2", "bloom", "falcon"])
def test_blocks_of_another_name_are_watched_as_well(opened: Opened, name: str) -> None:
    model, reader = opened(name)
    student = student_of("glad", "psr", model, reader)
    assert len(student.blocks) == model.n_layer


def test_a_hyper_parameter_that_torch_would_not_heed_is_refused_by_its_name(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = dict(opened("llama")[0].hyper_parameters)
    monkeypatch.setattr(Model, "hyper_parameters", stated | {"attention.temperature_length": 4096})
    assert "it states `attention.temperature_length`, which" in refusal(opened, "llama")


@pytest.mark.parametrize(
    ("name", "hyper_parameter"),
    [("granite", "attention.scale"), ("gemma4", "final_logit_softcapping")],
)
def test_what_is_not_stated_and_has_another_default_is_refused_by_its_name(
    opened: Opened, name: str, hyper_parameter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = dict(opened(name)[0].hyper_parameters)
    monkeypatch.setattr(Model, "hyper_parameters", stated)
    del stated[hyper_parameter]
    assert f"it does not state `{hyper_parameter}`, for which" in refusal(opened, name)


def test_a_tensor_that_torch_would_not_use_is_refused_by_its_name(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = opened("llama")[0].header
    tensors = {**header.tensors, "blk.2.attn_q.bias": 0}
    monkeypatch.setattr(Model, "header", type(header)(header.metadata, tensors))
    assert "tensors do not match, first blk.2.attn_q.bias" in refusal(opened, "llama")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mamba", "its architecture cannot be read as torch weights"),
        ("llama4", "its architecture cannot be read as torch weights"),
    ],
)
def test_what_cannot_be_read_is_known_before_a_weight_is_read(
    opened: Opened, name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "read_weights", None)
    assert reason in refusal(opened, name)
    assert reason in (unreadable(opened(name)[0]) or "")


def test_what_can_be_read_is_known_as_well(opened: Opened) -> None:
    assert unreadable(opened("qwen3")[0]) is None
    assert unreadable(opened("qwen35")[0]) is None


def a_preset(method: str) -> Preset:
    return Preset.model_validate({
        "schema": "steerplug/preset-v1", "name": "glad", "version": "1.0.0",
        "description": "Glad.", "license": "MIT", "teacher": {"system": "Be glad."},
        "fit": {"method": method},
    })  # fmt: skip


@pytest.mark.parametrize("why", ["architecture", "running state", "memory", "agreement"])
def test_nothing_is_asked_of_the_model_before_the_copy_is_there(
    why: str, opened: Opened, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"architecture": "llama4", "running state": "mamba"}.get(why, "llama3_rope")
    if why == "memory":
        monkeypatch.setattr(readable, "available", lambda: 1)
    if why == "agreement":
        monkeypatch.setattr(weights, "turn_alike", lambda *_: None)
    model, _ = opened(name)
    engine, kept = Engine(model, n_ctx=512, n_threads=1), Checkpoint(tmp_path / "glad-0.gguf")
    with reading(model, 512) as reader, pytest.raises(FitError, match="`method: chain`"):
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
    assert student.head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(("real", "kl"), [(QWEN_0_5B, 0.005), (GEMMA_270M, 0.01)])
def test_the_copies_of_real_quantised_models_are_accepted(real: RealModel, kl: float) -> None:
    model = Model(path_of(real))
    with reading(model, 1024) as reader:
        copy = Student(*weights.read_weights(model, 1024))
        found = agreement.agreement(copy, model, reader)
    assert found.kl < kl
    assert found.holds(coarse=model.header.is_coarse)
    model.close()
