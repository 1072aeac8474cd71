"""What llama.cpp says reaches us, to its last word."""

import signal
import subprocess
import sys
import textwrap


def test_llama_cpp_ends_the_process_with_one_sentence() -> None:
    program = """
        import ctypes
        from steerplug.engine import ggml, log
        log.take_over()
        log._receive(4, b"CUDA error: unspecified launch failure", None)
        ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)(
            ggml.address("ggml_abort")
        )(b"ggml-cuda.cu", 98, b"CUDA error")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], text=True, capture_output=True
    )
    assert done.returncode == -signal.SIGABRT
    assert done.stderr == (
        "steerplug: llama.cpp ends this process (CUDA error; unspecified launch failure); if it "
        "has lost a device, start again when that is back, or without it (devices: none).\n"
    )
