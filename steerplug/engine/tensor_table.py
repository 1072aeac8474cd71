"""What the header of a GGUF says, by ggml's own reader: texts, shapes of tensors, where data ends.

Tensors are asked about by functions of ggml alone; the layout of its structures is not known here.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steerplug.engine import ggml, log
from steerplug.errors import ModelError

_TEXT, _WHOLE = 8, 4
_OF_GGUF = {
    "find_key": ctypes.c_int64, "get_kv_type": ctypes.c_int, "get_val_str": ctypes.c_char_p,
    "get_val_u32": ctypes.c_uint32,
    "get_n_tensors": ctypes.c_int64, "get_tensor_name": ctypes.c_char_p,
    "get_tensor_type": ctypes.c_int,
    "get_tensor_offset": ctypes.c_size_t, "get_tensor_size": ctypes.c_size_t,
    "get_data_offset": ctypes.c_size_t,
}  # fmt: skip


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("tensors", ctypes.POINTER(ctypes.c_void_p)))


class TensorTable:
    """The open header of a GGUF: its tensors, and what it says of itself."""

    def __init__(self, handle: int, tensors: int) -> None:
        self._handle, self._tensors = ctypes.c_void_p(handle), ctypes.c_void_p(tensors)

    def _ask(self, what: str, *of: Any) -> Any:
        function = ggml.function(f"gguf_{what}")
        function.restype = _OF_GGUF[what]
        return function(self._handle, *of)

    def text(self, key: str) -> str:
        """Return a text, or an empty one where there is none under this key."""
        text = self._value(key, _TEXT, "get_val_str")
        return str(text.decode("utf-8", "replace")) if text else ""

    def is_kind(self, key: str, kind: int) -> bool:
        """Whether there is nothing under a key, or a value of this kind, by GGUF's number of it."""
        i = self._ask("find_key", ctypes.c_char_p(key.encode()))
        return bool(i < 0 or self._ask("get_kv_type", ctypes.c_int64(i)) == kind)

    def types(self) -> set[int]:
        """Return which of ggml's types its tensors have."""
        n = self._ask("get_n_tensors")
        return {int(self._ask("get_tensor_type", ctypes.c_int64(i))) for i in range(n)}

    def number(self, key: str) -> int | None:
        """Return a whole number, or None where there is none under this key, or several are."""
        number: int | None = self._value(key, _WHOLE, "get_val_u32")
        return number

    def _value(self, key: str, kind: int, get: str) -> Any:
        i = self._ask("find_key", ctypes.c_char_p(key.encode()))
        if i < 0 or self._ask("get_kv_type", ctypes.c_int64(i)) != kind:
            return None
        return self._ask(get, ctypes.c_int64(i))

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        n = self._ask("get_n_tensors")
        every = (self._ask("get_tensor_name", ctypes.c_int64(i)) for i in range(n))
        return [name.decode("utf-8", "replace") for name in every]

    def end(self) -> int:
        """Return how many bytes the whole file must have."""
        start, n = self._ask("get_data_offset"), self._ask("get_n_tensors")
        ends = (
            self._ask("get_tensor_offset", ctypes.c_int64(i))
            + self._ask("get_tensor_size", ctypes.c_int64(i)) for i in range(n)
        )  # fmt: skip
        return int(start + max(ends, default=0))

    def shape(self, name: str) -> tuple[int, int] | None:
        """Return how long the rows of a tensor are and how many it has; None: there is none."""
        get, n_elements, n_rows = (
            ggml.function(f"ggml_{what}") for what in ("get_tensor", "nelements", "nrows")
        )
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
        for count in (n_elements, n_rows):
            count.restype, count.argtypes = ctypes.c_int64, [ctypes.c_void_p]
        tensor = get(self._tensors, name.encode())
        if not tensor or not n_rows(tensor):
            return None
        return n_elements(tensor) // n_rows(tensor), n_rows(tensor)


@contextmanager
def opened_table(path: Path) -> Iterator[TensorTable]:
    """Open the header of a GGUF.

    Raises:
        ModelError: it is damaged, or no GGUF.
    """
    init, free = ggml.function("gguf_init_from_file"), ggml.function("gguf_free")
    forget = ggml.function("ggml_free")
    init.restype, init.argtypes = ctypes.c_void_p, [ctypes.c_char_p, _InitParams]
    for function in (free, forget):
        function.restype, function.argtypes = None, [ctypes.c_void_p]
    log.take_over()
    tensors = ctypes.c_void_p()
    handle = init(os.fsencode(path), _InitParams(True, ctypes.pointer(tensors)))
    if not handle:
        raise ModelError(f"{path} is a damaged GGUF ({log.complaint()}); make or fetch it again.")
    try:
        yield TensorTable(handle, tensors.value or 0)
    finally:
        free(handle)
        forget(tensors)
