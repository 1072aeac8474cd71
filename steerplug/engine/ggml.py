"""Addresses of ggml's own C functions, for the native hook and for reading a GGUF's header.

ggml's functions keep their signatures while its struct layouts change, so steerplug calls functions
and includes no header.
"""

import ctypes
import os
import struct
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steerplug.errors import EngineError

_DEVICE_CPU, _DEVICE_ACCELERATOR = 0, 3
_FLOAT32 = 0


def library_folder() -> Path:
    """Return where llama-cpp-python loads llama.cpp's libraries from, without loading them.

    Raises:
        EngineError: it is not installed.
    """
    if named := os.environ.get("LLAMA_CPP_LIB_PATH"):
        return Path(named)
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise EngineError("llama-cpp-python is not installed; run `pip install steerplug`.")
    return Path(spec.origin).parent / "lib"


@cache
def _library(stem: str) -> ctypes.CDLL | None:
    folder = library_folder()
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    paths = [folder / f"{prefix}{stem}{suffix}" for prefix in ("lib", "")]
    return next((ctypes.CDLL(str(path)) for path in paths if path.exists()), None)


@cache
def function(name: str) -> Any:
    """Return ggml's C function `name` as a ctypes function.

    libllama is asked first: there the linker finds the very ggml that llama.cpp runs on, while the
    wheel's `libggml-base.so` is a second copy of it, with a log and a device list of its own.

    Raises:
        EngineError: this build of llama.cpp does not export it.
    """
    for library in (_library(stem) for stem in ("llama", "ggml-base", "ggml")):
        if library is not None and hasattr(library, name):
            return library[name]
    raise EngineError(
        f"this build of llama-cpp-python does not export `{name}`; "
        "install a release of llama-cpp-python between 0.3.36 and 0.4."
    )


def address(name: str) -> int:
    """Return the address of ggml's C function `name`."""
    return int(ctypes.cast(function(name), ctypes.c_void_p).value or 0)


def tensors_on_host() -> bool:
    """Whether every device of this build computes in host memory, so tensors can be written there.

    Devices that only speed up the CPU (BLAS, for instance) use host memory as well.
    """
    count, get, kind = (
        function(f"ggml_backend_dev_{name}") for name in ("count", "get", "type")
    )
    count.restype, get.restype, kind.restype = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    get.argtypes, kind.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    return all(kind(get(i)) in (_DEVICE_CPU, _DEVICE_ACCELERATOR) for i in range(count()))


class Memory(ctypes.Structure):
    """How much memory `ggml_init` takes, whose, and whether numbers of tensors lie elsewhere."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("bare", ctypes.c_bool))


@cache
def sources_at() -> int:
    """Return at which byte of a tensor ggml keeps the two tensors it is the sum of; -1: nowhere.

    No function tells, and the layout changes between versions: so two are added and looked for.
    """
    init, new, add, overhead, free = (
        function(f"ggml_{name}")
        for name in ("init", "new_tensor_1d", "add", "tensor_overhead", "free")
    )
    init.restype, init.argtypes = ctypes.c_void_p, [Memory]
    new.restype, new.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
    add.restype, add.argtypes = ctypes.c_void_p, [ctypes.c_void_p] * 3
    overhead.restype = ctypes.c_size_t
    free.restype, free.argtypes = None, [ctypes.c_void_p]
    memory = init(Memory(8 * overhead(), None, True))
    try:
        a, b = new(memory, _FLOAT32, 1), new(memory, _FLOAT32, 1)
        return ctypes.string_at(add(memory, a, b), overhead()).find(struct.pack("2P", a, b))
    finally:
        free(memory)
