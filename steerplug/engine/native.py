"""The native library (native/*.c), loaded before llama.cpp so that it can be part of its graphs.

On Linux the dynamic linker gives llama.cpp the first definition of a function that all may see;
native/node.c says which one this library defines, and what becomes of it where it comes too late.
"""

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

from steerplug.errors import EngineError

_Pointer, _Int, _Bool = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
_TYPES: dict[str, tuple[Any, list[Any]]] = {
    "sp_begin": (None, [_Pointer, _Int]),
    "sp_stand_by": (None, [_Pointer, _Int]),
    "sp_end": (_Int, [_Pointer, _Bool]),
    "sp_recall": (None, [_Pointer]),
    "sp_account": (_Int, [_Pointer]),
    "sp_allow_amx": (None, []),
}
"""What a function returns, and what it takes."""


@cache
def library() -> ctypes.CDLL:
    """Return the native library, built when steerplug was installed.

    Raises:
        EngineError: it was not built.
    """
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    folders = [Path(entry) / "steerplug" / "engine" for entry in sys.path]
    candidates = [folder / f"_steer{suffix}" for folder in (Path(__file__).parent, *folders)]
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if path is None:
        raise EngineError(
            "steerplug's native library is missing; install the package with a C compiler at hand "
            "(`pip install .`) instead of running it from a bare checkout."
        )
    loaded = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    for name, (result, arguments) in _TYPES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded
