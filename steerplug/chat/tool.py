"""Tools: what a model may call in a reply, and the calls it makes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AUTO, NONE, REQUIRED = "auto", "none", "required"


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Args:
        name: what the model calls it.
        description: what it does, for the model to read.
        parameters: the JSON Schema of its arguments, an object.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Tools:
    """What may be called in one reply.

    Args:
        tools: the functions.
        choice: "auto" leaves it to the model, "none" forbids calls, "required" asks for at least
            one; the name of a tool asks for one of that tool.
        parallel: whether one reply may make several calls; None: where the model chooses to call.
        steered: whether steering acts on calls too; it leaves them alone if not.
    """

    tools: tuple[Tool, ...] = ()
    choice: str = AUTO
    parallel: bool | None = None
    steered: bool = False

    def __bool__(self) -> bool:
        return bool(self.tools)

    @property
    def several(self) -> bool:
        """Whether one reply may make several calls."""
        return self.choice == AUTO if self.parallel is None else self.parallel

    @property
    def callable_names(self) -> tuple[str, ...]:
        """The names of the tools that may be called."""
        named = (tool.name for tool in self.tools)
        return tuple(name for name in named if self.choice in (AUTO, REQUIRED, name))


@dataclass(frozen=True)
class ToolCall:
    """A call that a model made.

    Args:
        id: tells it from other calls of a conversation.
        name: the tool's name.
        arguments: its arguments, as JSON text that follows the tool's schema.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class CallPiece:
    """The next part of a call, as it is generated.

    Args:
        index: which call of the reply, from 0.
        arguments: what is added to the text of its arguments.
        id, name: said with the first piece of a call, else None.
    """

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


_FURTHER_KEYS = (
    "additionalProperties", "unevaluatedProperties", "patternProperties", "minProperties", "allOf",
    "anyOf", "oneOf", "not", "if", "dependentSchemas", "dependentRequired", "dependencies", "$ref",
    "$dynamicRef",
)  # fmt: skip


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with no keys but its properties, unless it speaks of others.

    What was not asked for is then not made up.
    """
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or any(key in schema for key in _FURTHER_KEYS):
        return dict(schema)
    required = schema.get("required") or []
    if not isinstance(required, list | tuple) or not all(
        isinstance(key, str) and key in properties for key in required
    ):  # what is no schema is refused where it is followed
        return dict(schema)
    return {"additionalProperties": False, **schema}
