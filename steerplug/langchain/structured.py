"""`with_structured_output`: replies that are JSON of a schema, and what parses them.

Contract::

    "function_calling"  the reply is a call of one tool, whose arguments follow the schema: the
                        model reads it in its prompt, and steering leaves calls alone
    "json_schema"       the reply is JSON that follows the schema, steered like any other; the
                        schema takes no tokens of the prompt, so keys have to speak for themselves
    "json_mode"         the same; without a schema, any JSON object

A schema is a pydantic class, a TypedDict, a JSON Schema or a tool in JSON.
"""

from collections.abc import Mapping
from operator import attrgetter, itemgetter
from typing import Any, Protocol

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.base import OutputParserLike
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableMap,
    RunnablePassthrough,
)
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from steerplug.chat.tool import Tool, closed
from steerplug.errors import RequestError, nearest
from steerplug.langchain.references import rooted
from steerplug.langchain.tools import described, to_tools

METHODS = ("function_calling", "json_schema", "json_mode")
_OWN = {"function_calling": ("tools", "tool_choice", "parallel_tool_calls")}
Schema = Mapping[str, Any] | type


class Bindable(Protocol):
    """What a chat model and a bound one have in common here."""

    def bind(self, **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Return it with arguments."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Return it with tools."""


def structured(
    model: Bindable,
    schema: Schema | None,
    *,
    include_raw: bool = False,
    method: str = "function_calling",
    strict: bool | None = None,
    **kwargs: Any,
) -> Runnable[LanguageModelInput, Any]:
    """Return a chain of `model` and what parses its replies.

    Args:
        model: a chat model, bound or not.
        schema: what a reply must follow; None with "json_mode": any JSON object.
        include_raw: whether to return `raw`, `parsed` and `parsing_error` in place of the parsed.
        method: see above.
        strict: without effect: replies follow the schema, or are an error.
        kwargs: other arguments of the calls. With `tools` a reply may call them instead, and what
            is parsed is None then; `raw` has the calls.

    Raises:
        RequestError: the method is unknown or says an argument itself, or `schema` is no schema.
    """
    if method not in METHODS:
        hint = nearest(method, METHODS) or "."
        raise RequestError(f"method is {method!r}{hint} Methods are {', '.join(METHODS)}.")
    trace = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    arguments = {"ls_structured_output_format": trace if _is_told(schema) else None, **kwargs}
    for name in _OWN.get(method, ("response_format",)):
        if arguments.pop(name, None):
            raise RequestError(
                f"the method {method!r} says `{name}` itself; leave it out, or choose another "
                "method."
            )
    tools = arguments.pop("tools", None) or ()
    if method == "function_calling":
        tool = described(_given(schema))
        name = _as_tool(tool).name
        tool = _read_by(schema, tool)
        bound = model.bind_tools([tool], tool_choice=name, parallel_tool_calls=False, **arguments)
    else:
        bound = model.bind_tools(tools, response_format=_format(schema, method), **arguments)
    parser: Runnable[AIMessage, Any] = _parser(schema, method)
    if tools:
        parser = RunnableBranch((attrgetter("tool_calls"), _nothing), parser)
    if not include_raw:
        return bound | parser
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=_nothing)
    failed = RunnablePassthrough.assign(parsed=_nothing)
    told = RunnableMap(raw=RunnablePassthrough[AIMessage]())  # a map of `bound` drops arguments
    return bound | told | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _is_told(schema: Schema | None) -> bool:
    """Whether LangChain can tell its tracers of a schema; what it cannot read, it would trip on."""
    try:
        return schema is not None and bool(convert_to_json_schema(schema))  # type: ignore[arg-type]
    except Exception:
        return False


def to_json_schema(schema: Schema) -> dict[str, Any]:
    """Return any schema as a JSON Schema.

    Raises:
        RequestError: it is none.
    """
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return rooted(schema.model_json_schema())
    if isinstance(schema, Mapping) and not {"function", "parameters"} & schema.keys():
        return dict(schema)
    tool = _as_tool(schema)
    return {"title": tool.name, **tool.parameters}


def _as_tool(schema: Schema) -> Tool:
    (tool,) = to_tools([described(schema)], None).tools
    return tool


def _format(schema: Schema | None, method: str) -> dict[str, Any]:
    if schema is None and method == "json_mode":
        return {"type": "json_object"}
    json_schema = closed(_read_by(schema, to_json_schema(_given(schema))))
    if method == "json_mode":
        return {"type": "json_object", "schema": json_schema}
    name = str(json_schema.get("title", "reply"))
    return {"type": "json_schema", "json_schema": {"name": name, "schema": json_schema}}


def _read_by(schema: Schema | None, part: Any) -> Any:
    """Return a schema as the class reads it that it is of: a set takes any list."""
    if not (isinstance(schema, type) and is_basemodel_subclass(schema)):
        return part
    if isinstance(part, list):
        return [_read_by(schema, item) for item in part]
    if not isinstance(part, Mapping):
        return part
    return {
        key: _read_by(schema, value) for key, value in part.items()
        if not (key == "uniqueItems" and value is True)
    }


def _parser(schema: Schema | None, method: str) -> OutputParserLike[Any]:
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    if method == "function_calling":
        if is_class:
            return PydanticToolsParser(tools=[schema], first_tool_only=True)
        name = _as_tool(_given(schema)).name
        return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
    return PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()


def _given(schema: Schema | None) -> Schema:
    if schema is None:
        raise RequestError("schema is None; give one, or choose the method 'json_mode'.")
    return schema


def _nothing(_: object) -> None:
    return None
