"""A YAML text as plain values, safely.

Contract: UTF-8, at most 256 kB, one document, a mapping at the root, at most 20 levels deep. Tags,
anchors, aliases and duplicate keys are refused, so reading a stranger's file runs no code and takes
time and memory in proportion to its size. Everything refused is a `PresetError` with the line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from steerplug.errors import PresetError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_NUMBER = 100  # characters; Python needs quadratic time for the digits of a huge number

Place = tuple[str | int, ...]
_STR = "tag:yaml.org,2002:str"


@dataclass(frozen=True)
class YamlFile:
    """What a YAML file says, and on which line it says it.

    Args:
        source: how messages call the file.
        data: its content, as plain values.
        lines: place, such as ("fit", "layers", 0), -> line, counted from 1.
    """

    source: str
    data: Mapping[str, object]
    lines: Mapping[Place, int] = field(default_factory=dict)

    def at(self, place: Place) -> str:
        """Return `source, line 7` for a place, or for the nearest place around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.source}, line {self.lines[place]}" if place else self.source


def read_yaml(
    content: bytes, source: str, first: str = "`schema: steerplug/preset-v1`"
) -> YamlFile:
    """Read one YAML document.

    Args:
        content: the file.
        source: how messages call it.
        first: a line that such a file may begin with.

    Raises:
        PresetError: the content breaks a rule of this module's contract.
    """
    if len(content) > MAX_BYTES:
        raise PresetError(
            f"{source} is larger than {MAX_BYTES // 1024} kB; shorten its texts or lists."
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PresetError(
            f"{source} is not UTF-8 text (byte {error.start}); save it again as UTF-8."
        ) from None
    try:
        return _PlainLoader(text, source).read(first)
    except yaml.YAMLError as error:
        raise PresetError(_syntax(error, source)) from None


def printable(text: str) -> str:
    """Return the beginning of a stranger's text, fit for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")[1:-1]


def _syntax(error: yaml.YAMLError, source: str) -> str:
    """Return the sentence for a text that is not YAML at all."""
    mark = getattr(error, "problem_mark", None)
    where = f"{source}, line {mark.line + 1}" if mark else source
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    problem = str(problem).removeprefix("but ")
    return (
        f"{where}: this is not valid YAML ({problem}); check the indentation, and quote texts that "
        "hold `: ` or ` #` or begin with a sign."
    )


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, less everything that a preset does not need."""

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.source = source
        self.depth = 0
        self.lines: dict[Place, int] = {}

    def read(self, first: str) -> YamlFile:
        root = self.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise PresetError(
                f"{self.source} must hold `key: value` lines, beginning with {first}."
            )
        data = self._mapping(root, ())
        return YamlFile(self.source, data, self.lines)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, after refusing what would make the tree a graph, or code, or endless."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None:
            self._refuse(
                line,
                "anchors and aliases (`&x`, `*x`) are refused, because a few lines of them can "
                "expand to gigabytes; write the text out, or quote it if it begins with `&` or `*`",
            )
        if getattr(event, "tag", None) is not None:
            self._refuse(
                line,
                f"the tag `{printable(event.tag)}` is refused, because a preset is data only; "
                "remove it, or quote the text if it begins with `!`",
            )
        if self.depth == MAX_DEPTH:
            self._refuse(line, f"nested deeper than {MAX_DEPTH} levels; a preset needs five")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _value(self, node: yaml.Node, place: Place) -> object:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*place, i)) for i, item in enumerate(node.value)]
        return self._scalar(node)

    def _item(self, node: yaml.Node, place: Place) -> object:
        self.lines[place] = node.start_mark.line + 1
        return self._value(node, place)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != _STR:
                name = printable(key.value) if isinstance(key, yaml.ScalarNode) else "[...]"
                self._refuse(line, f"the key `{name}` is not a word; put it in quotes or remove it")
            if key.value in mapping:
                first = self.lines[(*place, key.value)]
                self._refuse(
                    line,
                    f"the key `{printable(key.value)}` stands here and on line {first}; "
                    "keep one of them",
                )
            self.lines[(*place, key.value)] = line
            mapping[key.value] = self._value(value, (*place, key.value))
        return mapping

    def _scalar(self, node: yaml.Node) -> object:
        line = node.start_mark.line + 1
        if node.tag == _STR:
            return str(node.value)
        if len(node.value) > MAX_NUMBER:
            self._refuse(line, f"`{node.value[:20]}...` is too long a number; put it in quotes")
        try:
            plain: object = self.construct_object(node)
        except (ValueError, OverflowError, yaml.YAMLError):
            self._refuse(line, f"YAML cannot read `{node.value}`; put it in quotes")
        return plain

    def _refuse(self, line: int, why: str) -> NoReturn:
        raise PresetError(f"{self.source}, line {line}: {why}.")
