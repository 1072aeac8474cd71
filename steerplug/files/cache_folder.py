"""The folder of what can be made again: fitted steering, measurements, what was found out here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from steerplug.errors import StoreError
from steerplug.files.home import at_home


def cache_folder() -> Path:
    """Return $STEERPLUG_CACHE, or the user's cache folder.

    Raises:
        StoreError: it is in the home of nobody who is known here.
    """
    named = os.environ.get("STEERPLUG_CACHE")
    folder = Path(named) if named else user_cache_path("steerplug", appauthor=False)
    return at_home(folder, StoreError, "set STEERPLUG_CACHE to a folder").absolute()


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Turn what the disk says of a folder of the cache into a `StoreError`."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the cache folder {folder} cannot be used ({error.strerror or error}); set "
            "STEERPLUG_CACHE to a folder with space that you may write to."
        ) from error
