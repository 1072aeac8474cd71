"""Which llama.cpp this is: its version, and what it was compiled for."""

import llama_cpp

# isort: split
from llama_cpp import llama_cpp as llama


def version() -> str:
    """Return the version of llama-cpp-python, which brings llama.cpp."""
    return str(llama_cpp.__version__)


def features() -> str:
    """Return what its kernels were compiled for, such as `AVX2 FMA OPENMP`."""
    words = llama.llama_print_system_info().decode().replace(":", "|").split("|")
    pairs = (word.partition("=") for word in words)
    return " ".join(sorted({name.strip() for name, _, value in pairs if value.strip() == "1"}))
