"""Text that streams to stdout, its lines broken between words on a terminal."""

import re
import sys

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_WIDE = "\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff\uff00-\uffef"
_PARTS = re.compile(rf"\n|[^\S\n]+|[{_WIDE}]|[^\s{_WIDE}]+")
"""Ends of lines, gaps, characters that a line may break after (Chinese and such), and words."""


class Wrapped:
    """Writes words when they are whole; what is longer than a line is left to the terminal.

    Args:
        console: says whether stdout is a terminal, and how wide; elsewhere text is left as it is.
        style: how the text looks on a terminal.
    """

    def __init__(self, console: Console, style: str = "") -> None:
        self._console, self._style = console, style
        self._width = console.width if console.is_terminal else 0
        self._column, self._gap, self._word = 0, "", ""

    def write(self, text: str) -> None:
        """Write what of a text is whole, and hold its last word."""
        if not self._width:
            sys.stdout.write(text)
        for part in _PARTS.findall(text) if self._width else ():
            self._add(part)
        sys.stdout.flush()

    def end(self) -> None:
        """Write the word that was held."""
        self._write_word()
        sys.stdout.flush()

    def _add(self, part: str) -> None:
        if part == "\n":
            self._write_word()
            self._put(part)
            self._column, self._gap = 0, ""
        elif part.isspace():
            self._write_word()
            self._gap += part
        else:
            if cell_len(part) == 2 * len(part):
                self._write_word()
            self._word += part

    def _write_word(self) -> None:
        if not self._word:
            return
        if self._column and self._column + cell_len(self._gap + self._word) > self._width:
            self._put("\n")
            self._column, self._gap = 0, ""
        self._put(self._gap + self._word)
        self._column += cell_len(self._gap + self._word)
        self._gap = self._word = ""

    def _put(self, text: str) -> None:
        if self._style:
            self._console.print(Text(text, self._style), end="", soft_wrap=True)
        else:
            sys.stdout.write(text)
