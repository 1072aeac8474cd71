"""Whether gradients can be followed through a model here, known before a weight of it is read."""

from importlib.util import find_spec

from steerplug.engine.free_memory import available
from steerplug.engine.model import Model
from steerplug.errors import TorchCopyError

CURE = "write `method: chain`, which needs llama.cpp alone"

_NEEDED = ("torch", "psutil")


def check_installed(name: str, method: str) -> None:
    """Refuse a preset whose method needs what is not installed.

    Raises:
        TorchCopyError: a package of the extra `fit` is missing.
    """
    if lacking := missing():
        raise TorchCopyError(
            f"`{name}` asks for method `{method}`, which needs {' and '.join(lacking)}; "
            "run `pip install 'steerplug[fit]'`, or write `method: chain`, which does without."
        )


def check_readable(model: Model) -> None:
    """Refuse a model through which gradients cannot be followed here.

    Raises:
        TorchCopyError: why.
    """
    if reason := unreadable(model):
        raise TorchCopyError(
            f"gradients cannot be followed through {model.path.name} ({model.architecture}): "
            f"{reason}; {CURE}."
        )


def unreadable(model: Model) -> str | None:
    """Return why gradients cannot be followed through a model here, or None if they can.

    It reads no weights: milliseconds. Whether torch is taught all operations of llama.cpp's graph,
    and then agrees with it, is seen when the copy is there.
    """
    if lacking := missing():
        return f"{' and '.join(lacking)} is not installed"
    return _short_of_memory(model)


def memory_needed(model: Model, *, packed: bool = True) -> int:
    """Return the bytes that a torch copy of a model and a training through it take, about.

    Args:
        model: the model, which is loaded in llama.cpp besides.
        packed: its matrices stay packed, in llama.cpp's own memory; else in float32.
    """
    n_dequantised = 0 if packed else model.n_weights
    states = _ROWS * 64 * model.n_layer * model.n_embd
    return 4 * n_dequantised + states + _WORKING_BYTES


def check_room(model: Model, free: int) -> None:
    """Refuse a model whose dequantised weights do not fit where they are computed with.

    Args:
        model: the model.
        free: bytes.

    Raises:
        TorchCopyError: how much it takes.
    """
    needed = memory_needed(model, packed=False)
    if needed > free:
        raise TorchCopyError(
            f"gradients cannot be followed through {model.path.name} ({model.architecture}): "
            f"{_too_much(needed, free)}; {CURE}."
        )


def missing() -> list[str]:
    """Return the packages of the extra `fit` that are not installed."""
    return [package for package in _NEEDED if find_spec(package) is None]


def _short_of_memory(model: Model) -> str | None:
    needed, free = memory_needed(model), available()
    return None if free is None or needed <= free else _too_much(needed, free)


def _too_much(needed: int, free: int) -> str:
    return f"it takes about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"


_ROWS = 260
"""Of a batch that is trained on."""

_WORKING_BYTES = 2**30 + 2**27
"""For torch itself, prompts that are read once, and logits with their gradients."""
