"""The native library (native/*.c), loaded before llama.cpp so that it can be part of its graphs.

On Linux the dynamic linker gives llama.cpp the first definition of a function that all may see;
native/node.c says which one this library defines, and what becomes of it where it comes too late.
"""

import ctypes
import sys
from functools import cache
from pathlib import Path

from steerplug.errors import EngineError


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
    loaded.sp_begin.argtypes, loaded.sp_begin.restype = [ctypes.c_void_p, ctypes.c_int32], None
    loaded.sp_stand_by.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    loaded.sp_stand_by.restype = None
    loaded.sp_allow_amx.argtypes, loaded.sp_allow_amx.restype = [], None
    loaded.sp_end.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    loaded.sp_end.restype = ctypes.c_int32
    return loaded
