"""What is added to the activations: values, their algebra, and the file they live in.

The values need NumPy, so they are loaded when they are first used; `terms` and `header` need none.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerplug.steering.terms import Scope
    from steerplug.steering.value import NOTHING, Delta, Mix, Steering

__all__ = ["NOTHING", "Delta", "Mix", "Scope", "Steering"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("steerplug.steering.value"), name)
    raise AttributeError(f"module 'steerplug.steering' has no attribute {name!r}")
