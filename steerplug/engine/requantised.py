"""What a fit asks hundreds of texts of: weights, and values of cells, in types that are quick.

llama.cpp multiplies Q4_1 and Q5_1 by one row at a time, and Q8_0 by many; BF16 too, where the
processor can. SmolLM2 reads a token in 3.0 ms as Q4_1, in 1.4 ms as Q8_0 and in 1.0 ms as BF16, on
two cores, and says nearly the same, so such a model is asked and read through a copy.

Where many replies go through long prompts, attention on a processor is quickest where values are
BF16: what 32 replies behind a common prompt of 250 tokens take falls from 11 to 7 ms a token, and
of 16 on Qwen2.5-Coder-0.5B from 22 to 18. Whole prompts are read more slowly by it, so the reader's
cells are as the model was loaded for. What comes of a fit is measured on the model itself.
"""

import contextlib
import ctypes
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from llama_cpp import llama_cpp as llama

from steerplug.engine import log
from steerplug.engine.context import Context
from steerplug.engine.devices import tensors_on_host
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.sizes import N_CTX
from steerplug.errors import ModelError

_logger = logging.getLogger(__name__)

_SLOW = {str(llama.LLAMA_FTYPE_MOSTLY_Q4_1), str(llama.LLAMA_FTYPE_MOSTLY_Q5_1)}
_QUICK_V = "bf16"
_MOST_WEIGHTS = 4e9
"""Larger models would take more disk and memory than a fit should; so would more cells."""


@contextlib.contextmanager
def quick(engine: Engine, reader: Reader) -> Iterator[tuple[Engine, Reader]]:
    """Yield an engine that is asked quickly, and a reader of the same weights.

    A copy lives in a temporary folder, and is gone when the context is left. Where there is no
    room for it, a warning says so, and where nothing is gained, those given are yielded.
    """
    with contextlib.ExitStack() as at_the_end:
        copy = _copied(engine.model, at_the_end) if is_slow(engine.model) else None
        n_ctx, n_threads = engine.context.n_ctx, engine.context.n_threads
        asked = _of_quick_values(engine, copy or engine.model)
        if asked is None and copy is not None:
            asked = Engine(copy, n_ctx=n_ctx, n_threads=n_threads)
        if asked is not None:
            at_the_end.callback(asked.close)
        if copy is not None:
            reader = Reader(Context(copy, n_ctx=n_ctx, n_threads=n_threads))
        yield asked or engine, reader


def _of_quick_values(engine: Engine, weights: Model) -> Engine | None:
    """Return an engine like another one, whose values are quick; None where that gains nothing."""
    as_asked, context = engine.model.loading, engine.context
    if as_asked.flash_attn == "off" or context.type_v not in ("f16", "f32"):
        return None
    if weights.n_weights > _MOST_WEIGHTS or context.n_ctx > N_CTX or not tensors_on_host():
        return None
    with contextlib.suppress(ModelError):  # keys and values are one (MLA), or memory is short
        return Engine(
            weights, n_ctx=context.n_ctx, type_v=_QUICK_V, n_threads=context.n_threads
        )
    return None


def is_slow(model: Model) -> bool:
    """Whether a copy gains something; on a GPU, every type is quick."""
    file_type = model.metadata("general.file_type")
    small = model.n_weights <= _MOST_WEIGHTS
    return file_type in _SLOW and small and not llama.llama_supports_gpu_offload()


def _quickest() -> int:
    """Return the type in which many rows are read quickest, of those that lose next to nothing."""
    can = b"AVX512_BF16 = 1" in llama.llama_print_system_info()
    return int(llama.LLAMA_FTYPE_MOSTLY_BF16 if can else llama.LLAMA_FTYPE_MOSTLY_Q8_0)


def write_quick(path: Path, copy: Path) -> None:
    """Write a model again in the type in which many rows are read quickest.

    Args:
        path: the model.
        copy: the file to write.

    Raises:
        OSError: it cannot be written.
    """
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = _quickest(), True
    log.take_over()
    if llama.llama_model_quantize(os.fsencode(path), os.fsencode(copy), ctypes.byref(params)):
        raise OSError(log.complaint())


def _copied(model: Model, at_the_end: contextlib.ExitStack) -> Model | None:
    """Return the model in a quick type, or None where it cannot be written."""
    try:
        folder = at_the_end.enter_context(TemporaryDirectory(prefix="steerplug-"))
        path = Path(folder) / model.path.name
        write_quick(model.path, path)
    except OSError as error:
        _logger.warning(
            "%s cannot be copied to a temporary folder (%s), so this takes twice as long; set "
            "TMPDIR to a folder with space.", model.path.name, error.strerror or error,
        )  # fmt: skip
        return None
    copy = Model(path, model.loading)
    at_the_end.callback(copy.close)
    if os.name == "posix":  # what is open stays readable, and a killed process leaves nothing
        path.unlink()
    return copy
