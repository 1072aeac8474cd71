"""Reading a GGUF's weights into torch: packed where they can stay so, the others dequantised."""

import contextlib
import functools
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steerplug.engine.free_memory import available
from steerplug.engine.model import Model
from steerplug.errors import TorchCopyError
from steerplug.fit.distill import families, tensors
from steerplug.fit.distill.configuration import configured
from steerplug.fit.distill.gguf_reading import TensorReader
from steerplug.fit.distill.packed import Packed
from steerplug.fit.distill.packing import Restore, pack, put, unallocated
from steerplug.fit.distill.readable import CURE, check_room
from steerplug.fit.distill.rotary import turn_alike

_OVERLOOKED = {"layer_scalar": "layer_output_scale.weight"}
"""Parameters of a block, by transformers' names, that its reader finds no tensor for: Gemma 4."""

_MOST_AHEAD = 8
"""Blocks behind the last one, if any, predict tokens ahead, and are no part of the model here."""


def read_weights(model: Model, n_ctx: int) -> tuple[Any, torch.device]:
    """Return a transformers model with the GGUF's weights, frozen, and its device.

    It computes in float32. On a processor its matrices stay as they are packed in the file.

    Args:
        model: the GGUF, loaded in llama.cpp.
        n_ctx: the context in which llama.cpp reads it.

    Raises:
        TorchCopyError: transformers cannot read this model, or it does not fit the device.
    """
    device = _device()
    if device.type != "cpu":
        check_room(model, free_bytes(device))
    try:
        return _filled(model, n_ctx, device).to(device), device
    except Exception as error:  # of a reader that raises whatever its library does
        raise TorchCopyError(
            f"transformers cannot read {model.path.name} ({model.architecture}) as torch weights "
            f"({_reason(error)}); {CURE}."
        ) from None


def _reason(error: Exception) -> str:
    """Return the line that says what was wrong: torch's first one only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith(":")] or lines
    return telling[0][:160] if telling else type(error).__name__


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free where a device computes; 0 where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available() or 0  # a Mac's GPU shares it


def _filled(model: Model, n_ctx: int, device: torch.device) -> Any:
    """Return the model with its weights.

    `from_pretrained(gguf_file=...)` unpacks in Python what it keeps packed: slow to train through.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with _offline(), read_once(model.files[1:]) as read, quietly():
        config = configured(_configuration(model), model)
        with no_init_weights(), unallocated():  # they are replaced below
            module = AutoModelForCausalLM.from_config(
                config,
                dtype=torch.float32,
                attn_implementation="eager",
                experts_implementation="eager" if device.type == "cpu" else None,
            )
        file = read(str(model.path))
        placed, restore = places(module, model)
        if device.type == "cpu":
            packed = pack(module, file.tensors, placed, restore)
            file.tensors = [each for each in file.tensors if each.name not in packed]
        parameters = _parameters(module, model, file.tensors, placed)
        besides = _besides(file.tensors)
    turn_alike(module, model, besides, n_ctx)
    absent = module.load_state_dict(parameters, strict=False, assign=True)
    tied = _tie(module)
    left = _fill(module, absent.missing_keys, besides)
    odd = [*absent.unexpected_keys, *sorted(left - tied), *_unused(model, {*placed, *besides})]
    if odd:
        raise ValueError(f"its tensors do not match, first {odd[0]}")
    return module.eval().requires_grad_(False)


def _tie(module: Any) -> set[str]:
    """Let output and input share their matrix, where they do; return the output's name then."""
    if not module.config.tie_word_embeddings:
        return set()
    weight = module.get_input_embeddings().weight
    if isinstance(weight, Packed):
        put(module.get_output_embeddings(), "weight", weight)
    else:
        module.tie_weights()
    return {"lm_head.weight"}


def _configuration(model: Model) -> Any:
    from transformers import AutoConfig

    if families.family_of(model):
        return families.configuration(model)
    return AutoConfig.from_pretrained(model.path.parent, gguf_file=model.path.name)


def places(module: Any, model: Model) -> tuple[dict[str, str], Restore]:
    """Return the parameter that each tensor fills, and what makes parameters of tensors."""
    from transformers import modeling_gguf_pytorch_utils as reader

    if families.family_of(model):
        return tensors.places(module, model), partial(_restored, model)
    made = reader.TENSOR_PROCESSORS.get(model.architecture, reader.TensorProcessor)
    processor = made(config=module.config.to_dict())
    placed = reader.get_gguf_hf_weights_map(module, processor)

    def restore(name: str, values: NDArray[Any]) -> NDArray[Any]:
        given = {"tensor_key_mapping": placed, "parsed_parameters": {"tensors": {}}}
        return np.asarray(processor.process(weights=values, name=name, **given).weights)

    return placed, restore


def _restored(model: Model, name: str, values: NDArray[Any]) -> NDArray[Any]:
    values = tensors.restored(model, name, torch.tensor(values)).numpy()
    return values


def _parameters(
    module: Any, model: Model, read: Sequence[Any], placed: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Return the parameters of a module that are left to be read, dequantised."""
    from transformers import modeling_gguf_pytorch_utils as reader

    if families.family_of(model):
        return tensors.state(model, read, placed)
    loaded: dict[str, torch.Tensor] = reader.load_gguf_checkpoint(
        str(model.path), return_tensors=True, model_to_load=module
    )["tensors"]
    return loaded


def _besides(read: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of a GGUF that are used, and that transformers' reader leaves alone."""
    import gguf

    return {
        tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        for tensor in read
        if tensor.name.startswith("rope_f") or _kind(tensor.name) in _OVERLOOKED.values()
    }


def _kind(name: str) -> str:
    """Return a tensor's name within its block."""
    return re.sub(r"^blk\.\d+\.", "", name)


def _fill(module: Any, missing: Sequence[str], besides: Mapping[str, torch.Tensor]) -> set[str]:
    """Fill what transformers' reader overlooks; return the names of what is still missing."""
    state, left = module.state_dict(), set()
    for name in missing:
        block = re.fullmatch(r"model\.layers\.(\d+)\.(\w+)", name)
        tensor = block and besides.get(f"blk.{block[1]}.{_OVERLOOKED.get(block[2])}")
        if tensor is None:
            left.add(name)
        else:
            state[name].copy_(tensor)
    return left


def _unused(model: Model, used: set[str]) -> list[str]:
    """Return the tensors that llama.cpp computes with, and that the copy lacks."""
    shared = int(model.number("attention.shared_kv_layers") or 0)
    idle = {  # of the last blocks, which look at keys and values of others
        f"blk.{il}.attn_{side}.weight"
        for il in range(model.n_layer - shared, model.n_layer) for side in ("k", "v", "k_norm")
    }  # fmt: skip
    ahead = tuple(f"blk.{il}." for il in range(model.n_layer, model.n_layer + _MOST_AHEAD))
    return [
        name for name in model.header.tensors
        if not {name, name.removesuffix(".weight")} & (used | idle)
        and not name.startswith(ahead) and name != "output.weight"
    ]  # fmt: skip


@contextlib.contextmanager
def read_once(others: Sequence[Path]) -> Iterator[Callable[[str], Any]]:
    """Let transformers read the file once and quickly, and look up the names of tensors once.

    Give what reads it so.

    It would do the one twice and the other for every module, which takes longer than the weights.
    The tensors of other files, if the model is split, it would not find at all.
    """
    import gguf

    names = ("GGUFReader", "get_tensor_name_map")
    before = {name: getattr(gguf, name) for name in names}

    def read(*arguments: Any) -> Any:
        reader = TensorReader(*arguments)
        for other in others:
            reader.tensors += TensorReader(other).tensors
        return reader

    for name, made in (("GGUFReader", read), ("get_tensor_name_map", before[names[1]])):
        setattr(gguf, name, functools.cache(made))
    try:
        yield gguf.GGUFReader
    finally:
        for name, made in before.items():
            setattr(gguf, name, made)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' advice to those who write models from those who use them."""
    log = logging.getLogger("transformers")
    level, bars = log.level, contextlib.redirect_stderr(io.StringIO())
    with warnings.catch_warnings(), bars:
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


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


def fastest_type(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies in it, else float32.

    Nothing is timed, so that a machine always trains in the same type.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "mps" or not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
        return torch.float32
    able = {name for name, has in torch.cpu.get_capabilities().items() if has is True}
    return torch.bfloat16 if any("bf16" in name for name in able) else torch.float32
