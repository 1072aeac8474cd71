"""A loaded model that answers, each call with its own steering: what all doors talk to."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerplug.session.session import Event, Session, Settings, Text

__all__ = ['Event', 'Session', 'Settings', 'Text']


def __getattr__(name: str) -> Any:
    if name in __all__:  # `shared` is imported without loading llama.cpp
        return getattr(import_module("steerplug.session.session"), name)
    raise AttributeError(f"module 'steerplug.session' has no attribute {name!r}")
