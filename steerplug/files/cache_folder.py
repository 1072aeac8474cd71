"""The folder of what can be made again: fitted steering, measurements, what was found out here."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Return $STEERPLUG_CACHE, or the user's cache folder."""
    named = os.environ.get("STEERPLUG_CACHE")
    folder = Path(named) if named else user_cache_path("steerplug", appauthor=False)
    return folder.expanduser().absolute()
