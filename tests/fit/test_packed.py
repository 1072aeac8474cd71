"""Weights that stay packed multiply, and lead gradients back, as what gguf dequantises them to."""

import gguf
import numpy as np
import pytest
import torch
from torch.nn import functional

from steerplug.engine.model import Model
from steerplug.fit.distill import packed, packing
from steerplug.fit.distill import student as distill_student
from steerplug.fit.distill.experts import PackedExperts
from steerplug.fit.distill.packed import Packed, Workspace
from steerplug.fit.distill.packing import packed_of, unpack
from steerplug.fit.distill.student import Passage, Prefix, Student
from steerplug.fit.distill.weights import fastest_type, read_weights
from tests.helpers.tiny_models import tiny_model

N_OUT, N_IN = 50, 256
KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0"]
K_KINDS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", "IQ2_XXS", "IQ3_S", "MXFP4"]
EXPERTS = {"weight", "gate_up_proj", "down_proj"}
TYPES = [torch.float32, torch.bfloat16]


def made(kind: str, seed: int = 0) -> tuple[Packed, torch.Tensor]:
    """Some packed rows, and what gguf's own Python makes of them."""
    rng = np.random.default_rng(seed)
    quantisation = gguf.GGMLQuantizationType[kind]
    if kind in KINDS:
        values = rng.standard_normal((N_OUT, N_IN)).astype(np.float32)
        rows = np.ascontiguousarray(gguf.quantize(values, quantisation)).view(np.uint8)
    else:  # which gguf cannot make: of any bytes, with scales that are numbers
        n, size = gguf.GGML_QUANT_SIZES[quantisation]
        rows = rng.integers(0, 50, (N_OUT, N_IN // n * size)).astype(np.uint8)
    wanted = gguf.dequantize(rows.view(_stored(kind)), quantisation)
    return Packed(rows, kind, N_IN, Workspace(2)), torch.tensor(wanted)


def _stored(kind: str) -> type:
    return {"F32": np.float32, "F16": np.float16}.get(kind, np.uint8)


@pytest.fixture(autouse=True)
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make more than one piece of small matrices, and several steps of each."""
    monkeypatch.setattr(packed, "_PIECE", 20 * N_IN)
    monkeypatch.setattr(packed, "STEP", 3 * N_IN)


@pytest.mark.parametrize("kind", KINDS + K_KINDS)
@pytest.mark.parametrize("dtype", TYPES)
def test_it_is_what_gguf_dequantises(kind: str, dtype: torch.dtype) -> None:
    weight, wanted = made(kind)
    weight.dtype = dtype
    assert weight.dense().equal(wanted.to(dtype))
    numbers = torch.tensor([[3, 49], [0, 3]])
    assert functional.embedding(numbers, weight).equal(wanted.to(dtype)[numbers])


@pytest.mark.parametrize("kind", ["F32", "Q4_K"])
@pytest.mark.parametrize("dtype", TYPES)
def test_it_multiplies_and_leads_gradients_back_as_if_it_were_dense(
    kind: str, dtype: torch.dtype
) -> None:
    weight, dense = made(kind)
    weight.dtype, dense = dtype, dense.to(dtype)
    bias, given = torch.randn(N_OUT, dtype=dtype), torch.randn(2, 7, N_OUT, dtype=dtype)
    x = torch.randn(2, 7, N_IN, dtype=dtype, requires_grad=True)
    own, other = (functional.linear(x, each, bias) for each in (weight, dense))
    (back,), (wanted,) = (torch.autograd.grad(y, x, given) for y in (own, other))
    bound = 1e-5 if dtype == torch.float32 else 0.02
    for found, expected in ((own.detach(), other.detach()), (back, wanted)):
        assert float((found - expected).abs().max() / expected.abs().max()) < bound


def test_experts_of_gate_and_up_of_other_kinds_are_as_if_they_were_dense() -> None:
    pairs = [[made(kind, 2 * i + j) for j, kind in enumerate(("Q4_K", "Q6_K"))] for i in range(3)]
    experts = PackedExperts([[weight for weight, _ in pair] for pair in pairs])
    wanted = torch.stack([torch.cat([dense for _, dense in pair]) for pair in pairs])
    assert experts.shape == wanted.shape
    assert experts.dense().equal(wanted)
    experts.dtype = torch.bfloat16
    x = torch.randn(7, N_IN, dtype=torch.bfloat16, requires_grad=True)
    given = torch.randn(7, 2 * N_OUT, dtype=torch.bfloat16)
    own, other = (functional.linear(x, each[torch.tensor(2)]) for each in
                  (experts, wanted.bfloat16()))  # fmt: skip
    (back,), (dense,) = (torch.autograd.grad(y, x, given) for y in (own, other))
    for found, expected in ((own.detach(), other.detach()), (back, dense)):
        assert float((found - expected).abs().max() / expected.abs().max()) < 0.02


def test_whatever_else_is_done_with_it_is_done_with_it_dense() -> None:
    weight, dense = made("Q8_0")
    assert torch.matmul(torch.ones(3, N_OUT), weight).equal(torch.ones(3, N_OUT) @ dense)
    assert weight.T.equal(dense.T)


MIXED = ["qwen3moe", "qwen35moe", "granitemoe", "lfm2moe"]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "granite", "falcon_h1", *MIXED])
def test_a_model_whose_matrices_are_packed_says_what_it_says_dense(name: str) -> None:
    model = Model(tiny_model(name))
    tokens = torch.arange(20)[None]
    module, _ = read_weights(model, 256)
    assert len(packed_of(module)) > model.n_layer
    assert {own for _, own in packed_of(module)} >= (EXPERTS if name in MIXED else {"weight"})
    left = [own for own, _ in module.named_parameters()]
    assert not any("experts" in own or "shared_mlp" in own for own in left)
    with torch.no_grad():
        own = module(tokens).logits
        unpack(module)
        assert not packed_of(module)
        torch.testing.assert_close(own, module(tokens).logits, rtol=0, atol=1e-4)
    model.close()


def test_a_matrix_whose_rows_are_longer_than_a_threads_room_is_read_dense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(tiny_model("qwen2"))
    monkeypatch.setattr(packing, "STEP", model.n_embd)
    module, _ = read_weights(model, 256)
    widths = {getattr(part, own).shape[1] for part, own in packed_of(module)}
    assert widths == {model.n_embd}
    assert {p.shape[1] for p in module.parameters() if p.ndim == 2} - widths
    model.close()


def test_what_is_packed_is_unpacked_for_good_as_far_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(tiny_model("qwen2"))
    rows = [Passage(Prefix(), tuple(range(20)), 0)]
    head = model.vocab.n_tokens * model.n_embd * fastest_type(torch.device("cpu")).itemsize
    said, left = [], []
    for free in (0, 4 * (head + 5000), 10**12):
        monkeypatch.setattr(distill_student, "free_bytes", lambda _, free=free: free)
        student = Student(*read_weights(model, 256))
        student.to_fastest_type()
        left.append(len(packed_of(student.module)))
        if free:
            assert not isinstance(student.head.weight, Packed)
        with torch.no_grad():
            said.append(student.logits(student.hidden(rows)).float())
    assert left[0] > left[1] > left[2] == 0
    for other in said[1:]:
        torch.testing.assert_close(said[0], other, rtol=0, atol=0.02 * float(other.abs().max()))
    model.close()


def test_no_matrix_of_the_real_model_is_held_dequantised(model: Model) -> None:
    module, _ = read_weights(model, 256)
    assert max(parameter.ndim for parameter in module.parameters()) == 1
