"""What a GGUF states: its metadata and which tensors it holds, found by ggml itself.

Tensors are asked about by functions of ggml alone; the layout of its structures is not known here.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerplug.engine import ggml, log
from steerplug.errors import ModelError, unreadable

_NUMBERS: dict[int, Any] = {
    0: ctypes.c_uint8, 1: ctypes.c_int8, 2: ctypes.c_uint16, 3: ctypes.c_int16,
    4: ctypes.c_uint32, 5: ctypes.c_int32, 6: ctypes.c_float, 7: ctypes.c_bool,
    10: ctypes.c_uint64, 11: ctypes.c_int64, 12: ctypes.c_double,
}  # fmt: skip
_TEXT = 8
_FINE = {0, 1}  # F32, F16
_Value = Any
"""A number, a text, or a list of numbers."""


@dataclass(frozen=True)
class GgufHeader:
    """The header of one file.

    Args:
        metadata: every value but lists of texts, by its whole key.
        tensors: the number of each tensor's type, by its name.
        kinds: GGUF's number of the kind of each value, by its whole key.
        shapes: how long the rows of each tensor are and how many it has, by its name.
        size: how many bytes precede the tensors' data.
        n_bytes: how many bytes the whole file must have.
    """

    metadata: dict[str, _Value]
    tensors: dict[str, int]
    kinds: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    size: int = 0
    n_bytes: int = 0

    def text(self, key: str) -> str:
        """Return a text, or an empty one where there is none under this key."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    @property
    def is_coarse(self) -> bool:
        """Whether activations are rounded to some 8 bits where its weights multiply them.

        llama.cpp does so on a processor for quantised weights, and for BF16.
        """
        return not set(self.tensors.values()) <= _FINE


def read_gguf_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF.

    Raises:
        ModelError: it is damaged, or none that ggml can read.
    """
    with _opened(path) as (handle, tensors):
        keys = [(i, _text("gguf_get_key", handle, i))
                for i in range(ggml.call("gguf_get_n_kv", handle))]  # fmt: skip
        kinds = {key: ggml.call("gguf_get_kv_type", handle, i) for i, key in keys}
        found = ((key, _value(handle, i, kinds[key])) for i, key in keys)
        metadata = {key: value for key, value in found if value is not None}
        types, shapes, end = dict[str, int](), dict[str, tuple[int, int]](), 0
        for i in range(ggml.call("gguf_get_n_tensors", handle)):
            name = _text("gguf_get_tensor_name", handle, i)
            types[name] = ggml.call("gguf_get_tensor_type", handle, i)
            shapes[name] = _shape(tensors, name)
            begin = ggml.call("gguf_get_tensor_offset", handle, i)
            end = max(end, begin + ggml.call("gguf_get_tensor_size", handle, i))
        size = ggml.call("gguf_get_data_offset", handle)
    return GgufHeader(metadata, types, kinds, shapes, size, size + end)


def read_floats(path: Path, name: str) -> bytes:
    """Return the numbers of a float32 tensor as they lie in a GGUF; none where it has no such.

    Raises:
        ModelError: the file is damaged, or cannot be read.
    """
    with _opened(path) as (handle, _):
        i = ggml.call("gguf_find_tensor", handle, name.encode())
        if i < 0 or ggml.call("gguf_get_tensor_type", handle, i) != ggml.F32:
            return b""
        begin = ggml.call("gguf_get_data_offset", handle)
        begin += ggml.call("gguf_get_tensor_offset", handle, i)
        size = ggml.call("gguf_get_tensor_size", handle, i)
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(size)
    except OSError as error:
        raise ModelError(f"{path} {unreadable(error)}") from None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Give the header, and ggml's tensors, which have shapes and no data."""
    log.take_over()
    tensors = ctypes.c_void_p()
    params = ggml.GgufInitParams(True, ctypes.addressof(tensors))
    handle = ggml.call("gguf_init_from_file", os.fsencode(path), params)
    if not handle:
        raise ModelError(f"{path.name} is a damaged GGUF ({log.complaint()}); download it again.")
    try:
        yield handle, tensors.value or 0
    finally:
        ggml.call("gguf_free", handle)
        ggml.call("ggml_free", tensors.value or 0)


def _shape(tensors: int, name: str) -> tuple[int, int]:
    tensor = ggml.call("ggml_get_tensor", tensors, name.encode())
    n_rows = ggml.call("ggml_nrows", tensor)
    return ggml.call("ggml_nelements", tensor) // max(n_rows, 1), n_rows


def _text(name: str, handle: int, i: int) -> str:
    return str(ggml.call(name, handle, i).decode("utf-8", "replace"))


def _value(handle: int, i: int, kind: int) -> _Value:
    """Return the value of key i, or None for a list of texts."""
    if kind == _TEXT:
        return _text("gguf_get_val_str", handle, i)
    if kind in _NUMBERS:
        at = ggml.call("gguf_get_val_data", handle, i)
        return _NUMBERS[kind].from_address(at).value
    item = ggml.call("gguf_get_arr_type", handle, i)
    if item not in _NUMBERS:
        return None
    n = ggml.call("gguf_get_arr_n", handle, i)
    at = ggml.call("gguf_get_arr_data", handle, i)
    return list((_NUMBERS[item] * n).from_address(at)) if n else []
