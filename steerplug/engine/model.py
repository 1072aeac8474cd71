"""A GGUF model, loaded once: its weights, identity, vocabulary and chat template.

The fingerprint names the exact weights layout a steering was fitted on: architecture, width, depth
and the sha256 of the file's metadata and tensor table (not of the weights, which would take long);
of a model in several files, of all their tables in order. LoRA adapters and metadata given in place
of the file's make another model, and are hashed as well.

Quantising changes the fingerprint. What it leaves alone are the gains of the norms, in float32 in
every file. AWQ moves scales into those of the blocks, so `outer_norms` are those of the others: the
last one, and one of the embeddings in some architectures.
"""

import ctypes
import hashlib
import os
import re
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from gguf import PoolingType
from llama_cpp import llama_cpp as llama

from steerplug.engine import ggml, log, lora, params
from steerplug.engine.block_output import BlockOutput, block_output
from steerplug.engine.devices import check_devices
from steerplug.engine.gguf_header import GgufHeader, read_floats, read_gguf_header
from steerplug.engine.kv_cache import check_types
from steerplug.engine.loading import DEFAULT, Loading
from steerplug.engine.vocab import Vocab
from steerplug.errors import ModelError, unreadable
from steerplug.files.shards import shards

_MAGIC = b"GGUF"
_OUTER_NORM = re.compile(r"(?!blk\.).*norm\.weight")
_POOLINGS = {str(int(kind)): kind.name.lower() for kind in PoolingType if kind}
"""How models for embeddings make one vector of a text, by the number in their metadata."""


class Model:
    """A loaded model; frees its weights when closed or collected.

    Args:
        path: a GGUF file.
        loading: how it is loaded, and what its contexts are like.

    Raises:
        ModelError: the file is no GGUF, is damaged, or holds something that does not generate text;
            or it, this build or this machine cannot be what `loading` asks for.
    """

    def __init__(self, path: Path, loading: Loading = DEFAULT) -> None:
        self.path, self.loading = path, loading
        self.fingerprint = ""
        self._handle: ctypes.c_void_p | None = None
        self._contexts: set[ctypes.c_void_p] = set()
        header = _read_header(path)
        log.take_over()
        llama.llama_backend_init()
        check_devices(loading)
        check_types(path, loading)
        lora.check_loras(loading.lora, path)
        params.spread(loading.numa)
        log.forget()
        with log.overheard() as lines:
            self._handle = llama.llama_model_load_from_file(
                os.fsencode(path), params.model_params(loading)
            )
        if not self._handle:
            cure = f"change override_kv ({', '.join(loading.override_kv)})"
            raise ModelError(
                f"{path.name} cannot be loaded as a model ({log.complaint()}); "
                f"{cure if loading.override_kv else 'download it again'} or choose another GGUF."
            )
        self.vocab = Vocab(self._handle)
        params.check_overrides(loading, lines)
        params.check_locked(loading, lines)
        self._adapters = lora.Adapters(self._handle, loading.lora)
        self.architecture = self.metadata("general.architecture") or "unknown"
        self.name = path.stem  # what its metadata say may be of what it was made of
        self.n_embd = int(llama.llama_model_n_embd(self._handle))
        self.n_layer = int(llama.llama_model_n_layer(self._handle))
        self.n_weights = int(llama.llama_model_n_params(self._handle))
        self.n_ctx_train = int(llama.llama_model_n_ctx_train(self._handle))
        self.fingerprint = (
            f"{self.architecture}-{self.n_embd}x{self.n_layer}-{self._digest(header)}"
        )
        self.n_bytes, self.modified = _size_and_time(self.files)
        self._refuse_other_kinds()

    @property
    def files(self) -> list[Path]:
        """The files that it was read from, which are several where it was split."""
        is_split = int(self.metadata("split.count") or 1) > 1
        return shards(self.path) if is_split else [self.path]

    def _digest(self, header: bytes) -> str:
        """Return the sha256 of the headers of all files, of which the first has been read."""
        sha = hashlib.sha256(header)
        for file in self.files[1:]:
            sha.update(_read_header(file))
        for change in (*self.loading.override_kv, lora.digest(self.loading.lora)):
            sha.update(change.encode())
        return sha.hexdigest()

    def _refuse_other_kinds(self) -> None:
        reasons = {
            "is an encoder-decoder": llama.llama_model_has_encoder(self._handle),
            "has no decoder": not llama.llama_model_has_decoder(self._handle),
            "is a diffusion model": llama.llama_model_is_diffusion(self._handle),
        }
        for reason, holds in reasons.items():
            if holds:
                raise ModelError(
                    f"{self.path.name} ({self.architecture}) {reason}; "
                    "steerplug needs a decoder-only text model."
                )
        pooling = _POOLINGS.get(self.metadata(f"{self.architecture}.pooling_type") or "")
        if pooling:
            raise ModelError(
                f"{self.path.name} ({self.architecture}) is a model for embeddings (its "
                f"pooling_type is {pooling}), which writes no text that "
                "could be steered; take a chat model here, and `llama-server --embeddings` for it."
            )

    @property
    def handle(self) -> ctypes.c_void_p:
        """The `llama_model` pointer."""
        if self._handle is None:
            raise ModelError(f"{self.path.name} is closed; load the model again.")
        return self._handle

    def metadata(self, key: str) -> str | None:
        """Return a metadata value of the GGUF as text, or None if it has no such key."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = llama.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if n < size:
                return buffer.value.decode("utf-8", "replace") if n >= 0 else None
            size = n + 1

    @cached_property
    def header(self) -> GgufHeader:
        """The metadata and the tensors of its files."""
        first, *others = map(read_gguf_header, self.files)
        for other in others:
            first.tensors.update(other.tensors)
        return first

    @cached_property
    def outer_norms(self) -> str:
        """Hash of the norms outside its blocks, one for all its quantisations; "" without any."""
        sha, types = hashlib.sha256(), self.header.tensors
        norms = [n for n in sorted(types) if _OUTER_NORM.fullmatch(n) and types[n] == ggml.F32]
        for name in norms:
            sha.update(name.encode() + b"".join(read_floats(file, name) for file in self.files))
        return sha.hexdigest() if norms else ""

    @property
    def block_output(self) -> BlockOutput:
        """Where llama.cpp's graph holds the output of its blocks."""
        return block_output(self.architecture, self.metadata)

    def whole_number(self, key: str) -> int | None:
        """Return a whole number that its metadata has of its architecture, or None."""
        text = self.metadata(f"{self.architecture}.{key}")
        return int(text) if text and text.isdecimal() else None

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template: the one that was given, else the model's own, or None."""
        return self.loading.chat_template or self.metadata("tokenizer.chat_template")

    @property
    def tool_template(self) -> str | None:
        """The template that the file has for chats with tools besides, unless one was given."""
        given = self.loading.chat_template
        return None if given else self.metadata("tokenizer.chat_template.tool_use")

    @property
    def is_recurrent(self) -> bool:
        """Whether its memory is a running state that cannot be cut back to a prefix."""
        return bool(
            llama.llama_model_is_recurrent(self.handle) or llama.llama_model_is_hybrid(self.handle)
        )

    @property
    def has_states(self) -> bool:
        """Whether part of its memory may not be cut back: a running state, or sliding windows."""
        return self.is_recurrent or self.n_swa > 0

    @property
    def has_attention(self) -> bool:
        """Whether any of its blocks looks back at earlier tokens."""
        return not llama.llama_model_is_recurrent(self.handle)

    @property
    def n_swa(self) -> int:
        """How many tokens its sliding windows reach back; 0 where it has none."""
        return int(llama.llama_model_n_swa(self.handle))

    def new_context(self, params: llama.llama_context_params) -> ctypes.c_void_p | None:
        """Return a new `llama_context` on this model, or None if llama.cpp refuses.

        The model keeps account of its contexts and frees them before itself: the collector may
        finalise a model before the contexts that were thrown away with it.
        """
        context: ctypes.c_void_p | None = llama.llama_init_from_model(self.handle, params)
        if context:
            self._contexts.add(context)
            self._adapters.apply(context)
        return context

    def free_context(self, context: ctypes.c_void_p) -> None:
        """Free a context of this model, if that has not been done."""
        if context in self._contexts:
            self._contexts.remove(context)
            llama.llama_free(context)

    def has_context(self, context: ctypes.c_void_p) -> bool:
        """Whether a context of this model is still open."""
        return context in self._contexts

    def close(self) -> None:
        """Free the weights, and the contexts that are still open on them."""
        for context in list(self._contexts):
            self.free_context(context)
        if self._handle is not None:
            self.vocab.close()
            llama.llama_model_free(self._handle)
            self._handle = None

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing():  # llama.cpp's log would call into what is gone
            self.close()


def _size_and_time(files: list[Path]) -> tuple[int, float]:
    """Return how many bytes files have, and when the last of them was changed, in seconds."""
    try:
        found = [file.stat() for file in files]  # now: while it is open, they may be renamed
    except OSError as error:
        raise ModelError(f"{error.filename} {unreadable(error)}") from None
    return sum(one.st_size for one in found), max(one.st_mtime for one in found)


def _read_header(path: Path) -> bytes:
    """Return metadata and tensor table as bytes; refuse what is no GGUF."""
    try:
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise ModelError(f"{path.name} is not a GGUF file; choose a model in GGUF format.")
            file.seek(0)
            return file.read(read_gguf_header(path).size)
    except OSError as error:
        raise ModelError(f"{path} {unreadable(error)}") from None
