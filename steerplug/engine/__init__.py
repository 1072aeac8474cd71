"""llama.cpp: models, the steering hook, and generation; only this folder speaks to it."""

from contextlib import suppress

from steerplug.engine import native
from steerplug.errors import EngineError

with suppress(EngineError):  # told again by whoever needs it
    native.library()  # before anything here loads llama.cpp
