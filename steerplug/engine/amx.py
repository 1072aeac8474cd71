"""llama.cpp's AMX kernels: tried in a process of their own before anything is computed with them.

Where the compiler has spoilt them (llama.cpp issue 20824), the first product of weights that lie in
an AMX buffer ends the process. So a child process tries them (`amx_trial`), once for each build of
ggml and processor; what came of it is kept in the user's cache. Kernels that work keep their speed.
Others are left out, two ways: on Linux native/amx.c hides them from ggml, whose kernels for other
instructions stay; where ggml had listed them before that library was loaded, or on other systems,
a model is loaded without any weights laid out for a processor.
"""

import ctypes
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from platformdirs import user_cache_path

from steerplug.engine import ggml
from steerplug.engine.native import library
from steerplug.errors import EngineError
from steerplug.files.whole_file import write_whole

TRIAL = "steerplug.engine.amx_trial"
DIFFERS = 3
"""The exit status of a trial whose products are wrong."""

_SECONDS = 120
_CPU = 0


@dataclass(frozen=True)
class Verdict:
    """What came of a trial.

    Args:
        works: whether the kernels may be used.
        why: what happened, in words that go on from "AMX kernels".
    """

    works: bool
    why: str


def allow_extra_buffers() -> bool:
    """Let ggml use AMX kernels if they work; return whether a model may use extra buffer types.

    To be called before a model is loaded.
    """
    verdict = find_verdict()
    if verdict is None:
        return True
    if verdict.works:
        library().sp_allow_amx()
    return verdict.works or not _are_listed()


@cache
def find_verdict() -> Verdict | None:
    """Return whether AMX kernels work on this machine; None where ggml was built without them."""
    if not _are_built():
        return None
    path = _place()
    with suppress(OSError, ValueError, TypeError, RecursionError):
        return Verdict(**json.loads(path.read_text()))
    verdict, is_final = try_kernels()
    if is_final:
        with suppress(OSError):  # it is tried again, then
            write_whole(path, json.dumps(asdict(verdict)).encode())
    return verdict


def try_kernels() -> tuple[Verdict, bool]:
    """Return what a child process finds, and whether it is worth keeping."""
    if not sys.executable:
        return Verdict(False, "could not be tried, for there is no Python to start"), False
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(
            [sys.executable, "-m", TRIAL], env=environment, capture_output=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Verdict(False, f"did not come to an end within {_SECONDS} s"), False
    except OSError as error:
        return Verdict(False, f"could not be tried ({error.strerror or error})"), False
    if child.returncode == 0:
        return Verdict(True, "were tried in a process of their own, and work"), True
    if child.returncode == DIFFERS:
        return Verdict(False, f"compute wrong products ({_line(child.stdout)})"), True
    if (death := cause_of_death(child.returncode)) is not None:
        return Verdict(False, f"end the process ({death})"), True
    return Verdict(False, f"could not be tried ({_line(child.stderr)})"), False


def cause_of_death(status: int) -> str | None:
    """Return the signal, or the exception on Windows, that ended a process; None: it ended itself.

    Args:
        status: its exit status, as `subprocess` tells it.
    """
    if status < 0:
        with suppress(ValueError):
            return signal.Signals(-status).name
        return f"signal {-status}"
    return f"exception {status:#x}" if status >= 0xC0000000 else None


def _line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no reason given")


def _are_built() -> bool:
    try:
        return bool(ggml.call("ggml_cpu_has_amx_int8"))
    except EngineError:
        return False


def _are_listed() -> bool:
    """Whether ggml offers them; it makes its list once."""
    return any(name == b"AMX" for name, _buffer_type in extra_buffer_types())


def extra_buffer_types() -> list[tuple[bytes, int]]:
    """Return name and address of the ways in which ggml lays out weights for this processor."""
    device, name_of = cpu_device(), ggml.function("ggml_backend_buft_name")
    registry = ggml.function("ggml_backend_dev_backend_reg")
    find = ggml.function("ggml_backend_reg_get_proc_address")
    address = find(registry(device), b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    types = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
    named: list[tuple[bytes, int]] = []
    while types and (buffer_type := types[len(named)]):
        named.append((name_of(buffer_type), buffer_type))
    return named


def cpu_device() -> int:
    """Return the address of ggml's device for the processor."""
    return int(ggml.call("ggml_backend_dev_by_type", _CPU) or 0)


def _place() -> Path:
    """Return where the verdict on this build and processor is kept."""
    digest = hashlib.sha256(_processor().encode())
    for path in sorted({path.resolve() for path in ggml.library_folder().glob("*ggml-cpu*")}):
        digest.update(path.read_bytes())
    folder = user_cache_path("steerplug", appauthor=False)  # of this machine, not of a library
    return folder / "amx" / f"{digest.hexdigest()[:32]}.json"


def _processor() -> str:
    """Return what tells this kind of processor, and the kernel that runs it, from others."""
    names = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")
    lines: list[str] = []
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        lines = [line for line in first.splitlines() if line.split("\t")[0].strip() in names]
    return "\n".join([platform.platform(), platform.machine(), platform.processor(), *lines])
