"""What a GGUF states: its metadata and which tensors it holds, read by ggml itself."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerplug.engine import ggml
from steerplug.errors import ModelError

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
    """

    metadata: dict[str, _Value]
    tensors: dict[str, int]

    @property
    def is_coarse(self) -> bool:
        """Whether activations are rounded to some 8 bits where its weights multiply them.

        llama.cpp does so on a processor for quantised weights, and for BF16.
        """
        return not set(self.tensors.values()) <= _FINE


def read_gguf_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF.

    Raises:
        ModelError: it is none that ggml can read.
    """
    with _opened(path) as handle:
        keys = range(_call("gguf_get_n_kv", ctypes.c_int64, handle))
        found = ((_text("gguf_get_key", handle, i), _value(handle, i)) for i in keys)
        metadata = {key: value for key, value in found if value is not None}
        tensors = range(_call("gguf_get_n_tensors", ctypes.c_int64, handle))
        types = {
            _text("gguf_get_tensor_name", handle, i):
            _call("gguf_get_tensor_type", ctypes.c_int, handle, i)
            for i in tensors
        }  # fmt: skip
    return GgufHeader(metadata, types)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    function = ggml.function("gguf_init_from_file")
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ggml.InitParams]
    handle = function(os.fsencode(path), ggml.InitParams(True, None))
    if not handle:
        raise ModelError(f"{path.name} cannot be read any more; load the model again.")
    try:
        yield handle
    finally:
        _call("gguf_free", None, handle)


def _call(name: str, result: Any, handle: int, *numbers: int) -> Any:
    function = ggml.function(name)
    function.restype = result
    function.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * len(numbers)]
    return function(handle, *numbers)


def _text(name: str, handle: int, i: int) -> str:
    return str(_call(name, ctypes.c_char_p, handle, i).decode("utf-8", "replace"))


def _value(handle: int, i: int) -> _Value:
    """Return the value of key i, or None for a list of texts."""
    kind = _call("gguf_get_kv_type", ctypes.c_int, handle, i)
    if kind == _TEXT:
        return _text("gguf_get_val_str", handle, i)
    if kind in _NUMBERS:
        at = _call("gguf_get_val_data", ctypes.c_void_p, handle, i)
        return _NUMBERS[kind].from_address(at).value
    item = _call("gguf_get_arr_type", ctypes.c_int, handle, i)
    if item not in _NUMBERS:
        return None
    n = _call("gguf_get_arr_n", ctypes.c_size_t, handle, i)
    at = _call("gguf_get_arr_data", ctypes.c_void_p, handle, i)
    return list((_NUMBERS[item] * n).from_address(at)) if n else []
