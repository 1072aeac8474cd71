"""steerplug: activation-steering presets for llama.cpp, chosen per request.

Importing this package is cheap: nothing of llama.cpp or LangChain is loaded until a name is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from steerplug.version import __version__ as __version__

if TYPE_CHECKING:
    from steerplug.build import build_preset
    from steerplug.engine.sampling import Sampling
    from steerplug.errors import SteerplugError
    from steerplug.langchain import ChatSteerplug
    from steerplug.langchain.prompts import preset_from_prompt, split_prompt
    from steerplug.library.presets import list_presets, load_preset
    from steerplug.library.save import save_preset
    from steerplug.preset import Preset
    from steerplug.session import Session
    from steerplug.session.receipt import Reply
    from steerplug.steering import NOTHING, Delta, Mix, Steering

_HOMES = {
    "ChatSteerplug": "steerplug.langchain",
    "Delta": "steerplug.steering",
    "Mix": "steerplug.steering",
    "NOTHING": "steerplug.steering",
    "Preset": "steerplug.preset",
    "Reply": "steerplug.session.receipt",
    "Sampling": "steerplug.engine.sampling",
    "Session": "steerplug.session",
    "Steering": "steerplug.steering",
    "SteerplugError": "steerplug.errors",
    "build_preset": "steerplug.build",
    "list_presets": "steerplug.library.presets",
    "load_preset": "steerplug.library.presets",
    "preset_from_prompt": "steerplug.langchain.prompts",
    "save_preset": "steerplug.library.save",
    "split_prompt": "steerplug.langchain.prompts",
}

__all__ = [
    "NOTHING",
    "ChatSteerplug",
    "Delta",
    "Mix",
    "Preset",
    "Reply",
    "Sampling",
    "Session",
    "Steering",
    "SteerplugError",
    "build_preset",
    "list_presets",
    "load_preset",
    "preset_from_prompt",
    "save_preset",
    "split_prompt",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'steerplug' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
