"""Pictures on disk: refused before anything is measured, written whole or not at all.

Drawn with matplotlib, which is the extra `plot` and imported only when one is drawn.
"""

import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerplug.errors import RequestError
from steerplug.files.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf")
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "steerplug", "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left",
    "axes.titlesize": 10,
}  # fmt: skip


def check_picture(path: Path) -> None:
    """Refuse, before anything is measured, a picture that could not be written in the end.

    Raises:
        RequestError: matplotlib is missing, the suffix is unknown, or the folder is not there.
    """
    if find_spec("matplotlib") is None:
        raise RequestError(
            "pictures need matplotlib; install it with `pip install 'steerplug[plot]'`."
        )
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(
            f"the picture {path} ends in {path.suffix or 'no suffix'!r}; "
            f"end it in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}."
        )
    if path.is_dir():
        raise RequestError(f"the picture {path} is a folder; name a file in it.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RequestError(
            f"the picture {path} cannot be written, for {path.parent} is no folder that you may "
            "write to; name one that is."
        )


def publish(path: Path, draw: Callable[[], "Figure"]) -> None:
    """Draw a picture and put it at `path`, over whatever was there.

    Raises:
        RequestError: the file cannot be written.
    """
    from matplotlib import rc_context

    form = path.suffix.lower().removeprefix(".")
    try:
        with (
            whole_file(path, over=True) as temporary,
            rc_context(_STYLE),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            draw().savefig(temporary, format=form, dpi=160)
    except OSError as error:
        raise RequestError(
            f"the picture {path} cannot be written ({error.strerror or error}); "
            "name a file in a folder with space that you may write to."
        ) from None
