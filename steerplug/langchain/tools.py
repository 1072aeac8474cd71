"""LangChain's tools as what a model may call, and who chooses among them.

Contract::

    None, False, "auto"                                  the model chooses, or answers in words
    "none"                                               no call
    True, "any", "required"                              the model chooses, one at least
    "NAME", {"type": "function", "function": {"name": "NAME"}}   that tool
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from steerplug.chat.tool import AUTO, NONE, REQUIRED, Tool, Tools
from steerplug.errors import RequestError, nearest
from steerplug.langchain.references import recursive_schema

ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool
Choice = str | bool | Mapping[str, Any] | None

_WORDS = {"auto": AUTO, "none": NONE, "any": REQUIRED, "required": REQUIRED}


def described(tool: ToolLike, strict: bool | None = None) -> dict[str, Any]:
    """Return a tool as JSON values, in the form that chat models agree on.

    Raises:
        RequestError: nothing tells its name and arguments.
    """
    try:
        tool_json = convert_to_openai_tool(_named(tool), strict=strict)
        if (schema := recursive_schema(tool)) is not None:
            whole = {key: schema[key] for key in schema if key not in ("title", "description")}
            function = {**tool_json["function"], "parameters": whole}
            tool_json = convert_to_openai_tool(function, strict=strict)
    except RecursionError:
        raise RequestError(
            f"{repr(tool)[:80]} refers to itself, as only a pydantic class or a JSON Schema may "
            "here; give one."
        ) from None
    except (ValueError, TypeError, NameError, AttributeError, RuntimeError, LookupError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"{repr(tool)[:80]} is no tool and no schema ({reason}); give a function, a pydantic "
            "class, a TypedDict or a JSON Schema with a title."
        ) from None
    return tool_json


def _named(tool: ToolLike) -> ToolLike:
    """Return a JSON Schema without `properties` as a tool; LangChain would lose all it says."""
    if not isinstance(tool, Mapping) or "title" not in tool or {"name", "properties"} & {*tool}:
        return tool
    parameters = {key: value for key, value in tool.items() if key not in ("title", "description")}
    described = {"description": tool["description"]} if "description" in tool else {}
    return {"name": tool["title"], **described, "parameters": parameters}


def to_tools(
    tools: Sequence[Mapping[str, Any]], choice: Choice, parallel: bool | None = None
) -> Tools:
    """Return what may be called in one reply.

    Args:
        tools: as `described` gives them.
        choice: who chooses among them; see above.
        parallel: whether one reply may make several calls; None: where the model chooses to call.

    Raises:
        RequestError: a tool is no function, two have one name, or the choice is none of them.
    """
    functions = tuple(_tool(tool, i) for i, tool in enumerate(tools))
    names = [tool.name for tool in functions]
    for tool in functions:
        if names.count(tool.name) > 1:
            raise RequestError(f"two tools are called `{tool.name}`; rename one of them.")
    return Tools(functions, to_choice(choice, names), parallel)


def to_choice(choice: Choice, names: Sequence[str]) -> str:
    """Return who chooses among tools of these names, as `Tools` says it.

    Raises:
        RequestError: the choice is no tool, or asks for a call where there is none.
    """
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = str(function.get("name")) if isinstance(function, Mapping) else ""
        word = None
    else:
        name = choice if isinstance(choice, str) else "any" if choice else "auto"
        word = _WORDS.get(name)
    if word in (None, REQUIRED) and not names:
        raise RequestError(f"tool_choice is {choice!r}, but there are no tools; give some.")
    if word is None and name not in names:
        hint = nearest(name, names) or "."
        raise RequestError(f"tool_choice is {choice!r}, but the tools are {', '.join(names)}{hint}")
    return word or name


def _tool(tool: Mapping[str, Any], i: int) -> Tool:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise RequestError(
            f"tool {i} is {repr(dict(tool))[:80]}; a local model calls functions only, so give a "
            "function, a pydantic class or a tool."
        )
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise RequestError(
            f"the parameters of the tool {name!r} are {parameters!r:.80}; give the JSON Schema of "
            "an object."
        )
    return Tool(name, str(function.get("description") or ""), parameters)
