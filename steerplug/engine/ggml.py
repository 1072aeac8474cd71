"""ggml's C functions: which ones steerplug calls, with their types, and where they are found.

ggml's functions keep their signatures while its struct layouts change, so steerplug calls functions
and includes no header; `graph` alone reads a structure, and tries it first. Here are those that
Python calls and that llama-cpp-python, which has all of llama.h, does not declare. What native code
calls it declares itself (native/steer.h): it is handed addresses.
"""

import ctypes
import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steerplug.errors import EngineError

F32 = 0
"""ggml's number of the type float32."""


class InitParams(ctypes.Structure):
    """How much memory `ggml_init` takes, whose, and whether numbers of tensors lie elsewhere."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("bare", ctypes.c_bool))


class GgufInitParams(ctypes.Structure):
    """Whether tensors of a GGUF are made without data, and where their context is told."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


_Pointer, _Text, _Bool = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_bool
_Size, _Int, _Long = ctypes.c_size_t, ctypes.c_int, ctypes.c_int64
_Types = tuple[Any, list[Any]]
"""What a function returns, and what it takes."""

_ROWS: _Types = (None, [_Pointer, _Pointer, _Long])
_KEY = [_Pointer, _Long]
_TYPES: dict[str, _Types] = {
    # tensors and graphs, as descriptions
    "ggml_init": (_Pointer, [InitParams]),
    "ggml_free": (None, [_Pointer]),
    "ggml_tensor_overhead": (_Size, []),
    "ggml_graph_overhead": (_Size, []),
    "ggml_graph_overhead_custom": (_Size, [_Size, _Bool]),
    "ggml_new_tensor": (_Pointer, [_Pointer, _Int, _Int, _Pointer]),
    "ggml_new_tensor_1d": (_Pointer, [_Pointer, _Int, _Long]),
    "ggml_new_tensor_2d": (_Pointer, [_Pointer, _Int, _Long, _Long]),
    "ggml_get_tensor": (_Pointer, [_Pointer, _Text]),
    "ggml_op_name": (_Text, [_Int]),
    "ggml_type_size": (_Size, [_Int]),
    "ggml_set_name": (_Pointer, [_Pointer, _Text]),
    "ggml_nrows": (_Long, [_Pointer]),
    "ggml_nelements": (_Long, [_Pointer]),
    "ggml_add": (_Pointer, [_Pointer] * 3),
    "ggml_mul_mat": (_Pointer, [_Pointer] * 3),
    "ggml_scale": (_Pointer, [_Pointer, _Pointer, ctypes.c_float]),
    "ggml_view_2d": (_Pointer, [_Pointer, _Pointer, _Long, _Long, _Size, _Size]),
    "ggml_new_graph": (_Pointer, [_Pointer]),
    "ggml_new_graph_custom": (_Pointer, [_Pointer, _Size, _Bool]),
    "ggml_build_forward_expand": (None, [_Pointer] * 2),
    # rows of numbers; so are `dequantize_row_q4_K` and its like
    "ggml_fp16_to_fp32_row": _ROWS,
    "ggml_bf16_to_fp32_row": _ROWS,
    "ggml_fp32_to_bf16_row": _ROWS,
    "ggml_quantize_chunk": (_Size, [_Int, _Pointer, _Pointer, _Long, _Long, _Long, _Pointer]),
    # devices, their buffers, and what they compute
    "ggml_backend_dev_count": (_Size, []),
    "ggml_backend_dev_get": (_Pointer, [_Size]),
    "ggml_backend_dev_by_type": (_Pointer, [_Int]),
    "ggml_backend_dev_name": (_Text, [_Pointer]),
    "ggml_backend_dev_type": (_Int, [_Pointer]),
    "ggml_backend_dev_buffer_type": (_Pointer, [_Pointer]),
    "ggml_backend_dev_backend_reg": (_Pointer, [_Pointer]),
    "ggml_backend_dev_init": (_Pointer, [_Pointer, _Text]),
    "ggml_backend_dev_supports_op": (_Bool, [_Pointer] * 2),
    "ggml_backend_reg_get_proc_address": (_Pointer, [_Pointer, _Text]),
    "ggml_backend_buft_name": (_Text, [_Pointer]),
    "ggml_backend_buft_get_alignment": (_Size, [_Pointer]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_Pointer, [_Pointer] * 2),
    "ggml_backend_buffer_set_usage": (None, [_Pointer, _Int]),
    "ggml_backend_buffer_free": (None, [_Pointer]),
    "ggml_backend_tensor_set": (None, [_Pointer, _Pointer, _Size, _Size]),
    "ggml_backend_tensor_get": (None, [_Pointer, _Pointer, _Size, _Size]),
    "ggml_backend_graph_compute": (_Int, [_Pointer] * 2),
    # what a GGUF states
    "gguf_init_from_file": (_Pointer, [_Text, GgufInitParams]),
    "gguf_free": (None, [_Pointer]),
    "gguf_get_data_offset": (_Size, [_Pointer]),
    "gguf_get_n_kv": (_Long, [_Pointer]),
    "gguf_get_key": (_Text, _KEY),
    "gguf_get_kv_type": (_Int, _KEY),
    "gguf_get_val_str": (_Text, _KEY),
    "gguf_get_val_data": (_Pointer, _KEY),
    "gguf_get_arr_type": (_Int, _KEY),
    "gguf_get_arr_n": (_Size, _KEY),
    "gguf_get_arr_data": (_Pointer, _KEY),
    "gguf_get_n_tensors": (_Long, [_Pointer]),
    "gguf_find_tensor": (_Long, [_Pointer, _Text]),
    "gguf_get_tensor_name": (_Text, _KEY),
    "gguf_get_tensor_type": (_Int, _KEY),
    "gguf_get_tensor_offset": (_Size, _KEY),
    "gguf_get_tensor_size": (_Size, _KEY),
    # the process
    "ggml_cpu_has_amx_int8": (_Int, []),
    "ggml_set_abort_callback": (_Pointer, [_Pointer]),
    # not ggml's, but found with it: OpenMP's, and `dev_layer` and `select_buft` of `llama_model`
    "omp_pause_resource_all": (_Int, [_Int]),
    "_ZNK11llama_model9dev_layerEi": (_Pointer, [_Pointer, _Int]),
    "_ZNK11llama_model11select_buftEi": (_Pointer, [_Pointer, _Int]),
}


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
def function(name: str) -> Any:
    """Return a C function of the table, with its types.

    Raises:
        EngineError: this build of llama.cpp does not export it.
    """
    found = _find(name)
    types = _ROWS if name.startswith("dequantize_row_") else _TYPES[name]
    found.restype, found.argtypes = types
    return found


def call(name: str, *arguments: Any) -> Any:
    """Call a C function of the table; return what it does."""
    return function(name)(*arguments)


def address(name: str) -> int:
    """Return the address of a C function, whether Python calls it or not.

    Raises:
        EngineError: this build of llama.cpp does not export it.
    """
    return int(ctypes.cast(_find(name), ctypes.c_void_p).value or 0)


def _find(name: str) -> Any:
    """Return a function as nobody else has it, so that its types are whoever's who asked.

    libllama is asked first: there the linker finds the very ggml that llama.cpp runs on, while the
    wheel's `libggml-base.so` is a second copy of it, with a log and a device list of its own.
    """
    for library in (_library(stem) for stem in ("llama", "ggml-base", "ggml")):
        if library is not None and hasattr(library, name):
            return library[name]
    raise EngineError(
        f"this build of llama-cpp-python does not export `{name}`; "
        "install a release of llama-cpp-python between 0.3.36 and 0.4."
    )


@cache
def _library(stem: str) -> ctypes.CDLL | None:
    folder = library_folder()
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    paths = [folder / f"{prefix}{stem}{suffix}" for prefix in ("lib", "")]
    return next((ctypes.CDLL(str(path)) for path in paths if path.exists()), None)
