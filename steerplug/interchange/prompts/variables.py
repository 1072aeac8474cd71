"""Texts with variables: filled in where a value is known, else the whole line is set apart.

Contract: time and memory in proportion to the text; what filling in makes of it is bounded.
"""

import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from steerplug.errors import PresetError
from steerplug.files.yaml_file import printable

MAX_FILLED = 2**20
_MARK = "\0"
_GAP = re.compile(r"\n{3,}")
_BLOCKS = {"if", "for", "block", "macro", "call", "filter", "raw", "switch", "asyncEach"}

_CLOSE = {"{{!--": "--}}", "{{": "}}", "{%": "%}", "{#": "#}"}

Value = Callable[[str], str | None]
Syntax = tuple[str, ...]
HANDLEBARS: Syntax = ("{{!--", "{{")
NUNJUCKS: Syntax = ("{{", "{%", "{#")


@dataclass(frozen=True)
class Marked:
    """A text in which each variable without a value is a mark.

    Args:
        text: the text.
        variables: the names of those variables.
    """

    text: str
    variables: tuple[str, ...] = ()

    def constant(self) -> str:
        """Return the lines without a mark, without empty lines around them."""
        if _MARK not in self.text:
            return self.text.strip("\n")
        kept = "\n".join(line for line in self.text.split("\n") if _MARK not in line)
        return _GAP.sub("\n\n", kept).strip("\n") if kept.strip() else ""

    def named(self) -> str:
        """Return the first few variables, as words."""
        names = [f"`{printable(name)}`" for name in dict.fromkeys(self.variables)]
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def no_value(_name: str) -> None:
    """Know no variable's value."""


class _Writing:
    """Collects a text piece by piece, marks in place of variables."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._pieces: list[str] = []
        self._length = 0
        self._variables: list[str] = []

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._length += len(piece)
        if self._length > MAX_FILLED:
            raise PresetError(
                f"{self.source} grows beyond {MAX_FILLED} characters once its variables are filled "
                "in; shorten it."
            )

    def variable(self, name: str) -> None:
        self._variables.append(name)
        self.add(_MARK)

    def end(self) -> Marked:
        marked = Marked("".join(self._pieces), tuple(self._variables))
        self._pieces, self._length, self._variables = [], 0, []
        return marked


def refuse_marks(text: str, source: str) -> None:
    """Refuse a text that holds what marks a variable here: its line would be taken for one.

    Raises:
        PresetError: it does.
    """
    if _MARK in text:
        raise PresetError(f"{source} holds the control character '\\x00'; remove it.")


def in_dollars(text: str, value: Value, source: str) -> Marked:
    """Return a text with variables like `$name`; `$$` is a dollar."""
    refuse_marks(text, source)
    writing, at = _Writing(source), 0
    for match in string.Template.pattern.finditer(text):
        writing.add(text[at : match.start()])
        at = match.end()
        name = match["named"] or match["braced"]
        known = value(name) if name else ("$" if match["escaped"] is not None else match.group())
        writing.variable(name) if known is None else writing.add(known)
    writing.add(text[at:])
    return writing.end()


def in_braces(text: str, value: Value, source: str, syntax: Syntax) -> Marked:
    """Return a text with variables like `{{name}}`; a block is one variable, a comment nothing."""
    ((_, marked),) = _messages(text, value, source, syntax, None)
    return marked


def split_by_role(text: str, value: Value, source: str) -> list[tuple[str, Marked]]:
    """Return the messages of a dotprompt: the user's first; `{{role "x"}}` begins another."""
    messages = _messages(text, value, source, HANDLEBARS, "role")
    return [(role, marked) for role, marked in messages if marked.text.strip()]


def _messages(
    text: str, value: Value, source: str, syntax: Syntax, helper: str | None
) -> list[tuple[str, Marked]]:
    refuse_marks(text, source)
    writing, at, depth, role = _Writing(source), 0, 0, "user"
    messages: list[tuple[str, Marked]] = []
    for start, end, tag in _tags(text, syntax):
        if depth == 0:
            writing.add(text[at:start])
        at = end
        depth, was = max(depth + _nesting(tag), 0), depth
        words = tag.split()
        if tag.startswith("//"):
            continue
        if depth or was:
            if was == 0:
                writing.variable(tag)
        elif len(words) == 2 and words[0] == helper:
            messages.append((role, writing.end()))
            role = words[1].strip("\"'")
        elif (known := value(tag)) is None:
            writing.variable(tag)
        else:
            writing.add(known)
    if depth == 0:
        writing.add(text[at:])
    messages.append((role, writing.end()))
    return messages


def _tags(text: str, syntax: Syntax) -> Iterator[tuple[int, int, str]]:
    """Yield begin, end and inside of each tag; of a comment, `//`, and of `{% x %}`, `%x`."""
    open_tags, at = list(syntax), 0
    pattern = _any_of(open_tags)
    while open_tags and (match := pattern.search(text, at)):
        start, opened = match.start(), match.group()
        close = _CLOSE[opened]
        end = text.find(close, match.end())
        if end < 0:  # it opens nothing, nor does any after it
            open_tags.remove(opened)
            pattern, at = _any_of(open_tags), start
            continue
        inside, at = text[match.end() : end], end + len(close)
        if opened == "{{" and inside[:1] == "{" and text[at : at + 1] == "}":
            inside, at = inside[1:], at + 1
        is_comment = opened in ("{#", "{{!--") or inside[:1] == "!"
        name = inside.strip("~-").strip()
        yield start, at, "//" if is_comment else ("%" if opened == "{%" else "") + name


def _any_of(open_tags: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, open_tags)))


def _nesting(tag: str) -> int:
    """Return 1 for what begins a block, -1 for what ends one."""
    if tag[:1] in ("#", "^") and len(tag) > 1:
        return 1
    if tag[:1] == "/" and tag[:2] != "//":
        return -1
    if tag[:1] == "%":
        word = tag[1:].split()[0] if tag[1:].split() else ""
        return 1 if word in _BLOCKS else -1 if word.startswith("end") else 0
    return 0
