"""Tiny GGUFs with random weights, one per architecture, for tests of what runs on llama.cpp.

Which tensors an architecture has, and in what shapes, is asked of llama.cpp itself:
`llama_model_init_from_user` builds a model from metadata alone and names every tensor that its
loader wants. Values follow from the seed and the tensor's name, so a file is the same wherever it
is made. The tokeniser and chat template are SmolLM2's, cut to its first tokens.
"""

import ctypes
import functools
import hashlib
import os
import re
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

from steerplug.engine import ggml, log
from steerplug.model_file import find_model
from steerplug.steering.value import Array
from tests.helpers import tiny_specs
from tests.helpers.tiny_specs import OPTIONAL, PLAIN, SPECS, Spec

# isort: split
from llama_cpp import llama_cpp as llama

N_VOCAB = 2048

Shapes = dict[str, tuple[int, ...]]


def tiny_model(name: str, seed: int = 0) -> Path:
    """Return the tiny model of this name, made at first use and kept beside its like.

    Args:
        name: one of `SPECS`.
        seed: of its weights.
    """
    path = _folder() / f"{name}-{seed}.gguf"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as scratch:  # several processes may make it
            made = make(SPECS[name], Path(scratch), seed)
            os.replace(made, path)
    return path


@functools.cache
def _folder() -> Path:
    """Return the folder of what this llama.cpp and these very specs make."""
    sha = hashlib.sha256(llama_cpp.__version__.encode())
    for module in (__file__, tiny_specs.__file__):
        sha.update(Path(module).read_bytes())
    folder = Path(tempfile.gettempdir()) / f"steerplug-tiny-{sha.hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    return folder


def make(spec: Spec, folder: Path, seed: int = 0) -> Path:
    """Write a tiny model of these hyper-parameters into a folder, and return its path."""
    bare = _write(folder / "bare.gguf", spec, spec.keys, {})
    shapes = _fused(_shapes(bare)) if spec.fused else _shapes(bare)
    tensors = {
        tensor: spec.values.get(tensor, _random(tensor, shape, seed))
        for tensor, shape in shapes.items()
        if _is_there(spec, tensor)
    }
    return _write(folder / "made.gguf", spec, {**spec.keys, **spec.later}, tensors)


def _is_there(spec: Spec, tensor: str) -> bool:
    def among(patterns: tuple[str, ...]) -> bool:
        return any(re.search(pattern, tensor) for pattern in patterns)

    return not among(spec.drop) and (among(spec.keep) or not among(OPTIONAL))


def _random(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """Return numbers of a size that keeps activations about one; shape in NumPy's order."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    x: Array = rng.standard_normal(shape, np.float32)
    if "rope_f" in name:  # factors grow from 1, as those of Llama 3 and of Phi 3 do
        x = np.geomspace(1, 16 if "long" in name else 8, shape[0]).astype(np.float32)
    elif "ssm_a" in name:  # a state that fades
        x = -np.abs(x) - np.float32(0.1)
    elif not name.endswith(".bias") and re.search(r"norm|ln\.weight|_scale\.weight", name):
        x = 1 + np.float32(0.1) * x
    elif len(shape) == 1 or name.endswith(".bias"):
        x = np.float32(0.1) * x
    elif "_embd" not in name:
        x = x / np.float32(np.sqrt(shape[-1]))
    return np.ascontiguousarray(x)


def _write(path: Path, spec: Spec, keys: Mapping[str, Any], tensors: Mapping[str, Array]) -> Path:
    writer = gguf.GGUFWriter(path, spec.arch)
    writer.add_name("tiny")
    named = {"vocab_size": N_VOCAB, **PLAIN, **keys}
    for key, value in named.items():
        _add(writer, f"{spec.arch}.{key}", value)
    for key, value in spec.whole.items():
        _add(writer, key, value)
    for key, (value, *kinds) in _tokeniser().items():
        writer.add_key_value(key, value, *kinds)
    for tensor, values in tensors.items():
        writer.add_tensor(tensor, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = gguf.GGUFValueType
    if value is None:
        return
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        kind = {bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32, str: kinds.STRING}
        writer.add_key_value(key, value, kind[type(value)])


@functools.cache
def _tokeniser() -> dict[str, tuple[Any, ...]]:
    """Return SmolLM2's metadata of its tokeniser, cut to the first tokens: value and types."""
    fields = {
        key: (its.contents(), its.types[0], its.types[1] if len(its.types) > 1 else None)
        for key, its in gguf.GGUFReader(find_model("smollm2")).fields.items()
        if key.startswith("tokenizer.")
    }
    tokens, merges = "tokenizer.ggml.tokens", "tokenizer.ggml.merges"
    known = set(fields[tokens][0][:N_VOCAB])
    for key in (tokens, "tokenizer.ggml.token_type"):
        fields[key] = (fields[key][0][:N_VOCAB], *fields[key][1:])
    some = [pair for pair in fields[merges][0] if pair.replace(" ", "") in known]
    fields[merges] = (some, *fields[merges][1:])
    return fields


def _shapes(path: Path) -> Shapes:
    """Return the tensors that llama.cpp's loader wants for a file that holds metadata alone."""
    shapes: Shapes = {}
    read, free = ggml.function("gguf_init_from_file"), ggml.function("gguf_free")
    name_of = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(ggml.address("ggml_get_name"))

    def take(tensor: int, _user_data: int) -> None:
        sizes = np.frombuffer(ctypes.string_at(tensor + 16, 32), np.int64).tolist()
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        shapes[name_of(tensor).decode()] = tuple(reversed(sizes))

    log.take_over()
    params = llama.llama_model_default_params()
    params.use_extra_bufts = False
    metadata = read(os.fsencode(path), ggml.GgufInitParams(True, None))
    model = llama.llama_model_init_from_user(
        metadata, llama.llama_model_set_tensor_data_t(take), None, params
    )
    free(metadata)
    if not model:
        raise ValueError(f"llama.cpp refuses the hyper-parameters of {path.name}")
    llama.llama_model_free(model)
    return shapes


def _fused(shapes: Shapes) -> Shapes:
    """Return the shapes with each block's attn_q, attn_k and attn_v as one attn_qkv."""
    fused: Shapes = {}
    for name, shape in shapes.items():
        one = re.sub(r"attn_[qkv]\.(weight|bias)$", r"attn_qkv.\1", name)
        fused[one] = (fused[one][0] + shape[0], *shape[1:]) if one in fused else shape
    return fused
