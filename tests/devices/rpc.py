"""A device of another process on this machine, over llama.cpp's RPC on 127.0.0.1.

    python -m tests.devices.rpc PORT

serves the CPU until it is ended; `joined` lets the next model be loaded onto it.
"""

import ctypes
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from steerplug.engine import ggml
from steerplug.engine.devices import devices


@contextmanager
def joined() -> Iterator["subprocess.Popen[bytes]"]:
    """Start a server and take its device in; hand over its process."""
    port = _free_port()
    server = subprocess.Popen([sys.executable, "-m", "tests.devices.rpc", str(port)])
    try:
        _wait_for(port)
        add = _library().ggml_backend_rpc_add_server
        add.restype, add.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        register = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        register(ggml.address("ggml_backend_register"))(add(f"127.0.0.1:{port}".encode()))
        yield server
    finally:
        server.kill()
        server.wait()


def serve(port: int) -> None:
    """Serve this machine's CPU."""
    start = _library().ggml_backend_rpc_start_server
    start.argtypes = [
        ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p
    ]  # fmt: skip
    cpu = next(device.address for device in devices() if not device.is_gpu)
    start(f"127.0.0.1:{port}".encode(), None, 1, 1, (ctypes.c_void_p * 1)(cpu))


@cache
def _library() -> Any:
    return ctypes.CDLL(str(ggml.library_folder() / "libggml-rpc.so"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
