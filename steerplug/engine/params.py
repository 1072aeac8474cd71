"""A loading as llama.cpp's own structures. What is not named here is as llama.cpp has it."""

import ctypes
from collections.abc import Sequence
from typing import Any

from llama_cpp import llama_cpp as llama

from steerplug.engine import amx
from steerplug.engine.devices import devices
from steerplug.engine.loading import (
    CACHE_TYPES,
    FLASH_ATTENTION,
    NUMA,
    ROPE_SCALINGS,
    SPLIT_MODES,
    Loading,
)
from steerplug.engine.setting_values import parsed
from steerplug.errors import ModelError, nearest

_LOAD_MODES = {
    (True, False): llama.LLAMA_LOAD_MODE_AUTO,  # mapped, unless a device cannot have it so
    (True, True): llama.LLAMA_LOAD_MODE_MMAP_MLOCK,
    (False, False): llama.LLAMA_LOAD_MODE_NONE,
    (False, True): llama.LLAMA_LOAD_MODE_MLOCK,
}
_TAGS = {
    bool: (llama.LLAMA_KV_OVERRIDE_TYPE_BOOL, "val_bool"),
    int: (llama.LLAMA_KV_OVERRIDE_TYPE_INT, "val_i64"),
    float: (llama.LLAMA_KV_OVERRIDE_TYPE_FLOAT, "val_f64"),
    str: (llama.LLAMA_KV_OVERRIDE_TYPE_STR, "val_str"),
}
_numa: list[str] = []
"""How this process was spread over nodes; llama.cpp does that once."""


def model_params(asked: Loading) -> llama.llama_model_params:
    """Return how llama.cpp is to load a model; what it points to lives as long as it."""
    params = llama.llama_model_default_params()
    params.n_gpu_layers = asked.n_gpu_layers
    params.split_mode, params.main_gpu = SPLIT_MODES[asked.split_mode], asked.main_gpu
    params.load_mode = _LOAD_MODES[asked.use_mmap, asked.use_mlock]
    params.use_extra_bufts = amx.allow_extra_buffers() and asked.use_extra_bufts
    params.check_tensors = asked.check_tensors
    params.alive = alive = list[Any]()
    if asked.tensor_split:
        n = int(llama.llama_max_devices())
        alive.append((ctypes.c_float * max(n, len(asked.tensor_split)))(*asked.tensor_split))
        params.tensor_split = alive[-1]
    if asked.devices:
        addresses = {device.name: device.address for device in devices()}
        chosen = [addresses.get(name) for name in asked.devices]  # none: the list ends at once
        alive.append((ctypes.c_void_p * (len(chosen) + 1))(*chosen))
        params.devices = ctypes.cast(alive[-1], ctypes.c_void_p)
    if asked.override_tensor:
        alive.append(_placements(asked))
        params.tensor_buft_overrides = ctypes.cast(alive[-1], ctypes.c_void_p)
    if asked.override_kv:
        alive.append(_overrides(asked))
        params.kv_overrides = alive[-1]
    return params


def set_context_params(params: llama.llama_context_params, asked: Loading) -> None:
    """Write into llama.cpp's parameters of a context what a loading says of them."""
    params.type_k, params.type_v = CACHE_TYPES[asked.type_k], CACHE_TYPES[asked.type_v]
    params.flash_attn_type = FLASH_ATTENTION[asked.flash_attn]
    scaling = asked.rope_scaling_type
    params.rope_scaling_type = -1 if scaling is None else ROPE_SCALINGS[scaling]
    for name in (
        "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor",
        "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx", "offload_kqv",
        "op_offload",
    ):  # fmt: skip
        setattr(params, name, getattr(asked, name))


def spread(numa: str | None) -> None:
    """Spread this process over the nodes of the machine, if that was asked for.

    Raises:
        ModelError: it was spread in another way before.
    """
    if numa is None or numa in _numa:
        return
    if _numa:
        raise ModelError(
            f"numa is {numa}, and this process was spread by {_numa[0]} before, which holds for "
            "all its models; say the same, or start another process."
        )
    _numa.append(numa)
    llama.llama_numa_init(NUMA[numa])


def check_overrides(asked: Loading, lines: Sequence[str]) -> None:
    """Refuse metadata in place of the file's that llama.cpp did not take, by what it says itself.

    Args:
        asked: the loading.
        lines: what llama.cpp said while it loaded.

    Raises:
        ModelError: a key is of another type, or is not read of this model.
    """
    for text in asked.override_kv:
        key = parsed(text)[0]
        if wrong := next((line for line in lines if "Bad metadata" in line and key in line), None):
            kind = wrong.rpartition("expected ")[2].partition(" ")[0]
            raise ModelError(f"override_kv is {text}, and {key} is of type {kind}; declare it so.")
        if not any("Using metadata override" in line and f"'{key}'" in line for line in lines):
            raise ModelError(
                f"override_kv names {key}, which llama.cpp does not read of this model"
                f"{nearest(key, _keys(lines)) or '; leave it out.'}"
            )


def check_locked(asked: Loading, lines: Sequence[str]) -> None:
    """Refuse to go on where weights were to be locked in memory and are not.

    Raises:
        ModelError: the system lets too few be locked.
    """
    if asked.use_mlock and any("failed to mlock" in line for line in lines):
        raise ModelError(
            "use_mlock is true, and this system does not let so much memory be locked; raise its "
            "limit (`ulimit -l unlimited`), or leave it out."
        )


def _keys(lines: Sequence[str]) -> list[str]:
    """Return the keys of a file, which llama.cpp lists while it loads."""
    listed = (line.partition("- kv ")[2].partition(": ")[2].split() for line in lines)
    return [words[0] for words in listed if words]


class _Placement(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def _placements(asked: Loading) -> Any:
    buffers = {device.buffer: device.buffer_type for device in devices()}
    rules = []
    for text in asked.override_tensor:
        pattern, _, buffer = text.rpartition("=")
        rules.append(_Placement(pattern.encode(), buffers[buffer]))
    return (_Placement * (len(rules) + 1))(*rules)


def _overrides(asked: Loading) -> Any:
    made = (llama.llama_model_kv_override * (len(asked.override_kv) + 1))()
    for override, text in zip(made, asked.override_kv, strict=False):
        key, value = parsed(text)
        tag, slot = _TAGS[type(value)]
        override.key, override.tag = key.encode(), tag
        setattr(override.value, slot, value.encode() if isinstance(value, str) else value)
    return made
