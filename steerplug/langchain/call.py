"""What one call of a chat model may say: the arguments of a reply, its tools and its format."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import StrictBool

from steerplug.errors import RequestError, nearest
from steerplug.langchain.arguments import Arguments
from steerplug.langchain.chat_fields import ChatFields
from steerplug.langchain.tools import to_tools

if TYPE_CHECKING:
    from steerplug.session import Settings

_ANY_OBJECT = {"type": "object"}
_KINDS = ("text", "json_object", "json_schema")


class Call(ChatFields, Arguments):
    """The arguments of one call; None leaves the choice to steerplug."""

    tools: list[dict[str, Any]] | None = None
    """What the reply may call, as `bind_tools` says it."""

    tool_choice: StrictBool | str | dict[str, Any] | None = None
    """Who chooses among the tools; see `tools`."""

    parallel_tool_calls: StrictBool | None = None
    """Whether one reply may make several calls; None: where the model chooses to call."""

    response_format: dict[str, Any] | None = None
    """`{"type": "text"}`, `{"type": "json_object"}`, with a `schema` or not, or
    `{"type": "json_schema", "json_schema": {"schema": ...}}`."""

    continue_final_message: StrictBool | None = None
    """Whether the reply goes on with the last message, an AI message; None: if that says so, with
    `additional_kwargs={"prefix": True}`."""

    def settings(self) -> "Settings":
        """Return all but model and steering as a session reads it.

        Raises:
            RequestError: tools, choice or format make no sense.
        """
        return replace(
            super().settings(),
            tools=to_tools(self.tools or (), self.tool_choice, self.parallel_tool_calls),
            format=None if self.response_format is None else to_schema(self.response_format),
            continue_final_message=bool(self.continue_final_message),
            chat_template_kwargs=self.chat_template_kwargs or {},
            parse_special=bool(self.parse_special),
            enable_thinking=self.enable_thinking,
            reasoning_effort=self.reasoning_effort,
            thinking_budget_tokens=self.thinking_budget_tokens,
        )


def to_schema(response_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the JSON Schema that a `response_format` asks for, if it asks for JSON.

    Raises:
        RequestError: it is of no known type, or without the schema it speaks of.
    """
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind not in _KINDS:
        hint = nearest(str(kind), _KINDS) or "."
        raise RequestError(
            f"response_format is of type {kind!r}{hint} Types are {', '.join(_KINDS)}."
        )
    named = response_format.get("json_schema") if kind == "json_schema" else response_format
    schema = named.get("schema") if isinstance(named, Mapping) else None
    if schema is None and kind == "json_object":
        return _ANY_OBJECT
    if not isinstance(schema, Mapping):
        raise RequestError(
            f"response_format holds no schema but {repr(schema)[:80]}; give a JSON Schema at "
            "`json_schema.schema`."
        )
    return schema
