"""The devices that this build of llama.cpp finds here, and what of a loading they cannot do."""

import ctypes
from dataclasses import dataclass

from llama_cpp import llama_cpp as llama

from steerplug.engine import ggml
from steerplug.engine.loading import Loading
from steerplug.errors import ModelError, nearest

_CPU, _ACCELERATOR = 0, 3


@dataclass(frozen=True)
class Device:
    """A device of ggml.

    Args:
        name: how llama.cpp calls it, such as `CUDA0`.
        address: of ggml's device.
        buffer: what the buffers are called that lie on it.
        buffer_type: the address of that kind of buffer.
        is_gpu: whether it computes beside the processor, in memory of its own or not.
    """

    name: str
    address: int
    buffer: str
    buffer_type: int
    is_gpu: bool


def devices() -> list[Device]:
    """Return all devices, in llama.cpp's order."""
    count = ggml.function("ggml_backend_dev_count")
    get, name, kind, buffer_type = (
        ggml.function(f"ggml_backend_dev_{what}") for what in ("get", "name", "type", "buffer_type")
    )
    name_of = ggml.function("ggml_backend_buft_name")
    count.restype, kind.restype = ctypes.c_size_t, ctypes.c_int
    get.restype = buffer_type.restype = ctypes.c_void_p
    name.restype = name_of.restype = ctypes.c_char_p
    get.argtypes = [ctypes.c_size_t]
    for function in (name, kind, buffer_type, name_of):
        function.argtypes = [ctypes.c_void_p]
    found = []
    for address in map(get, range(count())):
        buffers = buffer_type(address)
        found.append(Device(
            name(address).decode(), address, name_of(buffers).decode(), buffers,
            kind(address) not in (_CPU, _ACCELERATOR),
        ))  # fmt: skip
    return found


def check_devices(asked: Loading) -> None:
    """Refuse what the devices of this build and machine cannot do.

    Raises:
        ModelError: there is no such device, or none at all.
    """
    every = devices()
    gpus = [device.name for device in every if device.is_gpu]
    have = f"this build of llama.cpp finds {_listed(gpus)} here"
    chosen = asked.devices or tuple(gpus)
    if asked.n_gpu_layers > 0 and not (gpus and llama.llama_supports_gpu_offload()):
        raise ModelError(
            f"n_gpu_layers is {asked.n_gpu_layers}, and {have}; leave it out, which takes a GPU "
            "where there is one, or install llama-cpp-python with CUDA, Metal or Vulkan."
        )
    if asked.devices != ("none",):
        for name in asked.devices:
            if name not in gpus:
                raise ModelError(
                    f"devices names {name}, and {have}{nearest(name, gpus)}; leave it out, or say "
                    "none."
                )
    if asked.tensor_split and len(asked.tensor_split) != len(chosen):
        raise ModelError(
            f"tensor_split has {len(asked.tensor_split)} shares, and {have}; give one for each, or "
            "leave it out."
        )
    if asked.main_gpu > 0 and asked.main_gpu >= len(chosen):
        raise ModelError(f"main_gpu is {asked.main_gpu}, and {have}; GPUs are counted from 0.")
    if asked.split_mode == "tensor" and not gpus:
        raise ModelError(f"split_mode is tensor, and {have}; take layer, or leave it out.")
    for text in asked.override_tensor:
        buffer = text.rpartition("=")[2]
        buffers = [device.buffer for device in every]
        if buffer not in buffers:
            raise ModelError(
                f"override_tensor names the buffer {buffer}; there is {', '.join(buffers)}."
            )


def _listed(gpus: list[str]) -> str:
    return f"{len(gpus)} GPUs ({', '.join(gpus)})" if gpus else "no GPU"
