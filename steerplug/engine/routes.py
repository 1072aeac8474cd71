"""The routes by which steering reaches a model's blocks, and on which devices these lie.

    node        a function called by llama.cpp's graph, where all tensors are in host memory
    device      operations of llama.cpp's graph, computed by the device where each block lies;
                blocks in host memory have nodes there as well
    callback    llama.cpp stops at each block and hands it over

The first two take a llama.cpp whose functions can be replaced (Linux, loaded after steerplug); a
probe decides, see context.py.
"""

import sys
from typing import Literal

from steerplug.engine import ggml
from steerplug.engine.devices import devices
from steerplug.engine.model import Model
from steerplug.errors import EngineError

Route = Literal["node", "device", "callback"]

_DEVICE_OF_BLOCK = "_ZNK11llama_model9dev_layerEi"
_BUFFERS_OF_BLOCK = "_ZNK11llama_model11select_buftEi"


def buffer_types(model: Model, *, host_too: bool = False) -> list[int | None]:
    """Return the kind of buffer on the device of each block, as ggml's address; None: host memory.

    Args:
        model: the loaded model.
        host_too: take host memory as a device like others.

    Raises:
        EngineError: this build of llama.cpp does not tell, or devices cannot steer this model.
    """
    if sys.platform != "linux":
        raise EngineError("llama.cpp's own functions can be replaced under Linux only")
    if model.block_output.n_streams > 1:
        raise EngineError(f"blocks of {model.architecture} hand out several vectors for each row")
    if model.loading.split_mode == "tensor":
        raise EngineError("each block lies on several devices (split_mode is tensor)")
    device_of, buffers_of = (ggml.function(name) for name in (_DEVICE_OF_BLOCK, _BUFFERS_OF_BLOCK))
    gpus = {device.address: device.name for device in devices() if device.is_gpu}
    if model.loading.n_gpu_layers and any(name.startswith("RPC") for name in gpus.values()):
        host_too = True  # llama.cpp would send a node's function to another machine, too
    return [
        buffers_of(model.handle, il) if host_too or device_of(model.handle, il) in gpus else None
        for il in range(model.n_layer)
    ]


def names(model: Model) -> dict[str, int]:
    """Return how many blocks lie on each device, by its name."""
    device_of = ggml.function(_DEVICE_OF_BLOCK)
    known = {device.address: device.name for device in devices()}
    found: dict[str, int] = {}
    for il in range(model.n_layer):
        name = known.get(device_of(model.handle, il), "unknown")
        found[name] = found.get(name, 0) + 1
    return found
