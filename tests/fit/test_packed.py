"""Weights that stay packed multiply, and lead gradients back, as what gguf dequantises them to."""

import gguf
import numpy as np
import pytest
import torch
from torch.nn import functional

from steerplug.engine.model import Model
from steerplug.fit.distill import packed, weights
from steerplug.fit.distill import student as students
from steerplug.fit.distill.packed import Packed, PackedExperts, Workspace
from steerplug.fit.distill.student import Passage, Prefix, Student
from steerplug.fit.distill.weights import fastest_type
from steerplug.steering.value import Array
from tests.helpers.tiny_models import tiny_model

N_OUT, N_IN = 50, 256
KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0"]
K_KINDS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", "IQ2_XXS", "IQ3_S", "MXFP4"]
CPU = torch.device("cpu")
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
    assert weight.looked_up(numbers).equal(wanted.to(dtype)[numbers])


@pytest.mark.parametrize("kind", ["F32", "Q4_K"])
@pytest.mark.parametrize("dtype", TYPES)
def test_it_multiplies_and_leads_gradients_back_as_if_it_were_dense(
    kind: str, dtype: torch.dtype
) -> None:
    weight, dense = made(kind)
    weight.dtype, dense = dtype, dense.to(dtype)
    given = torch.randn(2, 7, N_OUT, dtype=dtype)
    x = torch.randn(2, 7, N_IN, dtype=dtype, requires_grad=True)
    own, other = (functional.linear(x, each) for each in (weight, dense))
    (back,), (wanted,) = (torch.autograd.grad(y, x, given) for y in (own, other))
    bound = 1e-5 if dtype == torch.float32 else 0.02
    for found, expected in ((own.detach(), other.detach()), (back, wanted)):
        assert float((found - expected).abs().max() / expected.abs().max()) < bound


def test_an_expert_is_one_of_the_packed_matrices() -> None:
    pairs = [made("Q4_K", i) for i in range(3)]
    experts = PackedExperts([weight for weight, _ in pairs])
    for dtype in TYPES:
        experts.dtype = dtype
        for i, (_, dense) in enumerate(pairs):
            assert experts[i].dense().equal(dense.to(dtype))


MIXED = ["qwen3moe", "qwen35moe", "granitemoe", "lfm2moe"]


def read(model: Model) -> tuple[Student, Array]:
    """A student, and what it says to some tokens."""
    student = Student(model, 256, CPU)
    with torch.no_grad():
        return student, said(student)


def said(student: Student) -> Array:
    with torch.no_grad():
        hidden = student.hidden([Passage(Prefix(), tuple(range(20)), 0)])
        logits: Array = student.logits(hidden).float().numpy()
    return logits


def packed_in(student: Student) -> set[str]:
    """The names of the tensors that stay packed."""
    held = student._weights._read
    return {name for name, each in held.items() if isinstance(each, Packed | PackedExperts)}


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "granite", "falcon_h1", *MIXED])
def test_a_model_whose_matrices_are_packed_says_what_it_says_dense(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(tiny_model(name))
    student, own = read(model)
    of_rows = {name for name, (n_out, _) in student.matrices.items() if n_out > 1}
    assert of_rows <= packed_in(student)
    assert any("_exps" in each for each in packed_in(student)) == (name in MIXED)
    monkeypatch.setattr(weights, "dequantiser", lambda _: None)
    monkeypatch.setattr(packed, "STEP", 0)
    dense, wanted = read(model)
    assert not packed_in(dense)
    np.testing.assert_allclose(own, wanted, rtol=0, atol=1e-4)
    model.close()


def test_a_matrix_whose_rows_are_longer_than_a_threads_room_is_read_dense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(tiny_model("qwen2"))
    monkeypatch.setattr(packed, "STEP", model.n_embd)
    student, _ = read(model)
    wide = {name for name, (_, n_in) in student.matrices.items() if n_in > model.n_embd}
    assert wide
    assert not wide & packed_in(student)
    model.close()


def test_what_is_packed_is_unpacked_for_good_as_far_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(tiny_model("qwen2"))
    head = model.vocab.n_tokens * model.n_embd * fastest_type(CPU).itemsize
    told, left = [], []
    for free in (0, 4 * (head + 5000), 10**12):
        monkeypatch.setattr(students, "free_bytes", lambda _, free=free: free)
        student, _ = read(model)
        student.to_fastest_type()
        left.append(packed_in(student))
        if free:
            assert "token_embd.weight" not in left[-1]
        told.append(said(student))
    assert len(left[0]) > len(left[1]) > len(left[2]) == 0
    for other in told[1:]:
        np.testing.assert_allclose(told[0], other, rtol=0, atol=0.02 * np.abs(other).max())
    model.close()


def test_embeddings_that_are_only_looked_up_stay_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(tiny_model("llama_untied"))
    monkeypatch.setattr(students, "free_bytes", lambda _: 10**12)
    student, _ = read(model)
    student.to_fastest_type()
    assert packed_in(student) == {"token_embd.weight"}
    model.close()


def test_no_matrix_of_the_real_model_is_held_dequantised(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # its rows are longer
    student, _ = read(model)
    assert student.n_bytes < 1_000_000
