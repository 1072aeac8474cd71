"""What commands write: results to stdout, everything said about them to stderr.

Colours, boxes and a moving bar are for terminals. Piped output is plain text, one thing a line, and
`NO_COLOR` is respected. With `--json`, stdout holds one JSON document and nothing else.
"""

import json
import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

_NARROW = 90
_LONG_NAME = 26
"""A longer name takes two lines in a table."""


def screen(*, stderr: bool = False) -> Console:
    """Return the console on stdout or stderr; it takes text literally, without markup.

    It stays there, also while a library that is to be quiet has its stderr taken away.
    """
    file = sys.stderr if stderr else sys.stdout
    return Console(file=file, markup=False, emoji=False, highlight=False)


def is_wide(console: Console) -> bool:
    """Say whether columns fit side by side: a terminal, and not a narrow one."""
    return console.is_terminal and console.width >= _NARROW


def put(text: str | Text, *, stderr: bool = False, console: Console | None = None) -> None:
    """Print a text; lines break between words on a terminal, and elsewhere are left as they are."""
    console = console or screen(stderr=stderr)
    console.print(text, soft_wrap=not console.is_terminal)


def say(sentence: str, style: str = "dim") -> None:
    """Say a sentence on stderr."""
    put(Text(visible(sentence), style), stderr=True)


def complain(error: object) -> None:
    """Say on stderr what went wrong."""
    say(f"steerplug: {error}", "red")


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=indent, ensure_ascii=not _speaks_unicode()), flush=True)


def _speaks_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def visible(text: str) -> str:
    r"""Return a stranger's text without the characters that command a terminal (such as ESC)."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def add_names(table: Table, title: str, names: Iterable[str]) -> None:
    """Add a column of names, which none of them makes so wide that the others have no room."""
    width = max((len(title), *map(len, names)))
    table.add_column(title, width=min(width, _LONG_NAME), overflow="fold")


def print_fields(**fields: str) -> None:
    """Print `name value` pairs, one a line, values aligned; `_` stands for a space in a name."""
    console, width = screen(), max(map(len, fields))
    for name, value in fields.items():
        label = f"{name.replace('_', ' '):<{width}}  "
        print_hanging(console, Text(label, "dim"), value)


def print_hanging(console: Console, label: Text, text: str, style: str = "") -> None:
    """Print a label and a text after it; on a terminal, no line of the text is under the label."""
    if not console.is_terminal:
        console.print(Text.assemble(label, text), soft_wrap=True)
        return
    grid = Table.grid()
    grid.add_column(width=len(label))
    grid.add_column(overflow="fold")  # a path is to be copied whole
    grid.add_row(label, Text(visible(text), style))
    console.print(grid)
