"""LoRA adapters of a model: checked by their headers before its weights are read, then applied.

An adapter is a part of the model: steering meets the activations that it has changed, and what was
fitted without it is for another model, see `Model.fingerprint`.
"""

import ctypes
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from llama_cpp import llama_cpp as llama

from steerplug.engine import log
from steerplug.engine.gguf_header import GgufHeader, read_gguf_header
from steerplug.errors import ModelError, unreadable
from steerplug.files.shards import shards

Lora = tuple[str, float]
"""The file of an adapter, and its scale."""

_PARTS = (".lora_a", ".lora_b")
_MAGIC = b"GGUF"
_FLOAT32 = 6
_NO_WEIGHTS = {
    llama.GGML_TYPE_I8, llama.GGML_TYPE_I16, llama.GGML_TYPE_I32, llama.GGML_TYPE_I64,
    llama.GGML_TYPE_F64,
}  # fmt: skip
"""With these, or an alpha of another kind, llama.cpp ends the process."""


def check_loras(loras: Sequence[Lora], model: Path) -> None:
    """Refuse an adapter that is not there, is damaged, or belongs to another model.

    Raises:
        ModelError: which, and why.
    """
    for path, _ in loras:
        _check(Path(path), model)


def digest(loras: Sequence[Lora]) -> str:
    """Return what changes with the content of an adapter or its scale; empty if there is none."""
    if not loras:
        return ""
    sha = hashlib.sha256()
    for path, scale in loras:
        with open(path, "rb") as file:
            sha.update(f"{hashlib.file_digest(file, 'sha256').hexdigest()} {scale}\n".encode())
    return sha.hexdigest()


class Adapters:
    """The adapters of one loaded model, which frees them with itself.

    Args:
        model: the `llama_model`.
        loras: which.

    Raises:
        ModelError: llama.cpp does not take one.
    """

    def __init__(self, model: ctypes.c_void_p, loras: Sequence[Lora]) -> None:
        self._handles = (llama.llama_adapter_lora_p_ctypes * len(loras))()
        self._scales = (ctypes.c_float * len(loras))(*(scale for _, scale in loras))
        for i, (path, _) in enumerate(loras):
            log.forget()
            handle = llama.llama_adapter_lora_init(model, os.fsencode(path))
            if not handle:
                raise ModelError(
                    f"the LoRA {path} cannot be applied ({log.complaint()}); leave it out, or use "
                    "the model that it was made for."
                )
            if llama.llama_adapter_get_alora_n_invocation_tokens(handle):
                raise ModelError(
                    f"the LoRA {path} is to act only behind words that invoke it, and here one "
                    "acts on all; leave it out."
                )
            self._handles[i] = handle

    def apply(self, context: ctypes.c_void_p) -> None:
        """Let them act in a context."""
        if len(self._handles):
            llama.llama_set_adapters_lora(context, self._handles, len(self._handles), self._scales)


def _check(path: Path, model: Path) -> None:
    try:
        with path.open("rb") as file:
            is_gguf = file.read(4) == _MAGIC
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise ModelError(f"the LoRA {path} {unreadable(error)}") from None
    if not is_gguf:
        raise ModelError(
            f"the LoRA {path} is not in GGUF; convert it with llama.cpp's convert_lora_to_gguf.py."
        )
    adapter = read_gguf_header(path)
    kind = adapter.text("general.type"), adapter.text("adapter.type")
    if kind != ("adapter", "lora"):
        raise ModelError(f"{path} is no LoRA adapter ({' '.join(kind).strip() or 'no type'}); "
                         "give one made by llama.cpp's convert_lora_to_gguf.py.")  # fmt: skip
    has_odd_alpha = adapter.kinds.get("adapter.lora.alpha", _FLOAT32) != _FLOAT32
    if has_odd_alpha or _NO_WEIGHTS & set(adapter.tensors.values()):
        raise ModelError(
            f"the LoRA {path} holds numbers of a kind that llama.cpp does not compute with; "
            "convert it again."
        )
    if size < adapter.n_bytes:
        raise ModelError(f"the LoRA {path} has {size} of {adapter.n_bytes} bytes; fetch it again.")
    _check_fits(path, adapter, model)


def _check_fits(path: Path, adapter: GgufHeader, model: Path) -> None:
    wanted = {
        name.removesuffix(_PARTS[0]): shape
        for name, shape in adapter.shapes.items() if name.endswith(_PARTS[0])
    }  # fmt: skip
    found: dict[str, tuple[int, int]] = {}
    for i, base in enumerate(map(read_gguf_header, shards(model))):
        ours, theirs = (header.text("general.architecture") for header in (base, adapter))
        if i == 0 and ours != theirs:
            raise ModelError(
                f"the LoRA {path} is for the architecture `{theirs}`, and {model.name} is "
                f"`{ours}`; use the model that it was made for."
            )
        found |= {name: base.shapes[name] for name in wanted if name in base.shapes}
    for name, a in wanted.items():
        b, base_shape = adapter.shapes.get(f"{name}{_PARTS[1]}"), found.get(name)
        if base_shape is None or (b and not _fit(name, base_shape, a, b)):
            has = f"has {base_shape[0]} by {base_shape[1]}" if base_shape else "lacks"
            raise ModelError(
                f"the LoRA {path} changes {name}, which {model.name} {has}; use the model that it "
                "was made for."
            )


def _fit(name: str, base: tuple[int, int], a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether a pair changes a tensor of this shape; each is how long rows are, and how many."""
    if name.startswith("token_embd."):
        return base == (b[1], a[1])
    return base == (a[0], b[1])
