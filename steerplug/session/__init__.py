"""A loaded model that answers, each call with its own steering: what all doors talk to."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerplug.session.session import Session
    from steerplug.session.settings import Settings, Text
    from steerplug.session.task import Event

_HOMES = {"Event": "task", "Session": "session", "Settings": "settings", "Text": "settings"}

__all__ = ["Event", "Session", "Settings", "Text"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # `shared` is imported without loading llama.cpp
        return getattr(import_module(f"steerplug.session.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'steerplug.session' has no attribute {name!r}")
