"""Reading a GGUF's weights, dequantised, into torch: where, in what type, and whether they fit."""

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from steerplug.engine.model import Model
from steerplug.errors import FitError

_BYTES_PER_WEIGHT = 10
"""While loading: the dequantised file and the module in float32, and the copy that is kept."""

_WORKING_BYTES = 2**30
"""For prompts computed once, and the activations of a training step."""


def read_weights(model: Model) -> tuple[Any, torch.device]:
    """Return a transformers model with the GGUF's weights, frozen, and its device.

    Raises:
        FitError: transformers cannot read this architecture, or memory will not do.
    """
    _check_is_its_file(model)
    _check_memory(model)
    device = _device()
    try:
        module = _dequantised(model)
        return module.to(device, _fastest_type(device)), device
    except (ValueError, KeyError, RuntimeError, AttributeError) as error:
        lines = str(error).splitlines()
        reason = lines[0][:120] if lines else type(error).__name__
        raise FitError(
            f"transformers cannot read {model.path.name} ({model.architecture}) as torch weights "
            f"({reason}); write `method: chain`, which needs llama.cpp alone."
        ) from None


def _check_is_its_file(model: Model) -> None:
    if changed := model.loading.changes:
        raise FitError(
            f"{model.path.name} is loaded with {', '.join(changed)}, of which torch knows nothing, "
            "so gradients would go through another model; write `method: chain`, which needs "
            "llama.cpp alone."
        )


def _check_memory(model: Model) -> None:
    needed = model.n_weights * _BYTES_PER_WEIGHT + _WORKING_BYTES
    available = int(psutil.virtual_memory().available)
    if needed > available:
        raise FitError(
            f"gradients through {model.path.name} need about {needed / 1e9:.0f} GB of memory and "
            f"{available / 1e9:.0f} GB are free; write `method: chain`, which needs no more than "
            "llama.cpp does."
        )


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dequantised(model: Model) -> Any:
    """Return the model in float32.

    `from_pretrained(gguf_file=...)` would keep the weights packed, which is slow to train through.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    folder, file = model.path.parent, model.path.name
    quiet = contextlib.redirect_stderr(io.StringIO())
    with _offline(), _read_once(model.files[1:]), warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        config = AutoConfig.from_pretrained(folder, gguf_file=file)
        with no_init_weights():  # of what is replaced below
            module = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="eager"
            )
        loaded = load_gguf_checkpoint(str(model.path), return_tensors=True, model_to_load=module)
    absent = module.load_state_dict(loaded["tensors"], strict=False)
    module.tie_weights()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    odd = [*absent.unexpected_keys, *(set(absent.missing_keys) - tied)]
    if odd:
        raise ValueError(f"its tensors do not match, first {odd[0]}")
    return module.eval().requires_grad_(False)


@contextlib.contextmanager
def _read_once(others: Sequence[Path]) -> Iterator[None]:
    """Let transformers read the file once, and look up the names of tensors once.

    It would do the one twice and the other for every module, which takes longer than the weights.
    The tensors of other files, if the model is split, it would not find at all.
    """
    import gguf

    names = ("GGUFReader", "get_tensor_name_map")
    before = {name: getattr(gguf, name) for name in names}

    def read(*arguments: Any) -> Any:
        reader = before["GGUFReader"](*arguments)
        for other in others:
            reader.tensors += before["GGUFReader"](other).tensors
        return reader

    for name, made in (("GGUFReader", read), ("get_tensor_name_map", before[names[1]])):
        setattr(gguf, name, functools.cache(made))
    try:
        yield
    finally:
        for name, made in before.items():
            setattr(gguf, name, made)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep transformers from asking the network for what a GGUF leaves out.

    The variable `HF_HUB_OFFLINE` would not do: it is read once, when the package is imported.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _fastest_type(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies in it, else float32.

    Nothing is timed, so that a machine always trains in the same type.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "mps" or not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
        return torch.float32
    able = {name for name, has in torch.cpu.get_capabilities().items() if has is True}
    return torch.bfloat16 if any("bf16" in name for name in able) else torch.float32
