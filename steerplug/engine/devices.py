"""The devices that this build of llama.cpp finds here, and what of a loading they cannot do."""

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
    name = ggml.function("ggml_backend_dev_name")
    buffer_type = ggml.function("ggml_backend_dev_buffer_type")
    name_of = ggml.function("ggml_backend_buft_name")
    found = []
    for address in _addresses():
        buffers = buffer_type(address)
        found.append(Device(
            name(address).decode(), address, name_of(buffers).decode(), buffers, _is_gpu(address)
        ))  # fmt: skip
    return found


def tensors_on_host() -> bool:
    """Whether every device of this build computes in host memory, so tensors can be written there.

    Devices that only speed up the CPU (BLAS, for instance) use host memory as well.
    """
    return not any(map(_is_gpu, _addresses()))


def _addresses() -> list[int]:
    get = ggml.function("ggml_backend_dev_get")
    return [get(i) for i in range(ggml.call("ggml_backend_dev_count"))]


def _is_gpu(address: int) -> bool:
    return ggml.call("ggml_backend_dev_type", address) not in (_CPU, _ACCELERATOR)


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
