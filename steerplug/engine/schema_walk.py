"""A JSON Schema that is changed part by part, and what of it was left out."""

from collections.abc import Callable, Iterator
from typing import Any

Node = dict[str, Any]
"""A schema, or one within it."""

MAPS = ("properties", "patternProperties", "$defs", "definitions")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
SINGLE = ("items", "additionalItems", "additionalProperties")
"""Keywords whose values are schemas: by name, in a list, one."""


class Loosening:
    """A schema on its way to a looser one, with what was left out so far."""

    def __init__(self, schema: Node, left_out: tuple[str, ...] = ()) -> None:
        self.schema, self.root, self.left_out = schema, schema, list(left_out)

    def apply(self, *changes: "Change") -> None:
        """Make changes to the schema and to every schema within it."""
        top: list[Any] = [self.schema]
        todo: list[tuple[Any, Any, str]] = [(top, 0, "#")]
        while todo:
            parent, key, pointer = todo.pop()
            if isinstance(parent[key], dict):
                node = dict(parent[key])
                for change in changes:
                    node = change(node, pointer, self)
                parent[key] = node
                todo += reversed(list(_parts(node, pointer)))
        self.schema = top[0]

    def leave_out(self, node: Node, keyword: str, pointer: str) -> None:
        """Remove a keyword, and note that it was there."""
        if keyword in node:
            del node[keyword]
            self.left_out.append(f"`{keyword}` at {pointer}")


Change = Callable[[Node, str, Loosening], Node]
"""Takes a schema and where it stands; returns it as it shall be."""


def _parts(node: Node, pointer: str) -> Iterator[tuple[Any, Any, str]]:
    """Yield the schemas in a schema, each as a container of its own and its key there."""
    for keyword, value in node.items():
        if keyword in MAPS and isinstance(value, dict):
            node[keyword] = dict(value)
            yield from ((node[keyword], key, f"{pointer}/{keyword}/{key}") for key in value)
        elif keyword in LISTS and isinstance(value, list):
            node[keyword] = list(value)
            yield from ((node[keyword], i, f"{pointer}/{keyword}/{i}") for i in range(len(value)))
        elif keyword in SINGLE:
            yield node, keyword, f"{pointer}/{keyword}"
