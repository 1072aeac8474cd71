"""Schemas that refer to themselves, such as a tree's, which LangChain cuts short in tools.

Its converter puts what a `$ref` names in its place, and nothing where that stands within itself.
Replies can be held to such a schema as it is, so it is kept.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from langchain_core.tools import BaseTool, create_schema_from_function
from langchain_core.utils.pydantic import is_basemodel_subclass


def recursive_schema(tool: Any) -> dict[str, Any] | None:
    """Return the JSON Schema of a tool's arguments if it refers to itself, else None.

    Raises:
        LookupError: it refers to what is not there.
    """
    schema = _schema(tool)
    return rooted(schema) if schema is not None and _is_recursive(schema) else None


def rooted(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that is no reference itself, as pydantic's of a tree's node is."""
    if "$ref" not in schema:
        return dict(schema)
    others = {key: value for key, value in schema.items() if key != "$ref"}
    return {**_at(schema, schema["$ref"]), **others}


def _schema(tool: Any) -> Mapping[str, Any] | None:
    """Return the schema that LangChain's converter reads; None for what it does not dereference."""
    if isinstance(tool, Mapping):
        return None
    if isinstance(tool, BaseTool):
        tool = tool.tool_call_schema
    elif not isinstance(tool, type):
        tool = create_schema_from_function(tool.__name__, tool, filter_args=())
    if isinstance(tool, Mapping):
        return tool
    if not is_basemodel_subclass(tool):
        return None
    schema = tool.model_json_schema if hasattr(tool, "model_json_schema") else tool.schema
    return schema()  # type: ignore[no-any-return]


def _is_recursive(schema: Mapping[str, Any]) -> bool:
    reach = {ref: _refs(_at(schema, ref)) for ref in _refs(schema)}
    for _ in reach:
        reach = {ref: refs.union(*(reach[other] for other in refs)) for ref, refs in reach.items()}
    return any(ref in refs for ref, refs in reach.items())


def _refs(part: object) -> set[str]:
    return set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(part, ensure_ascii=False)))


def _at(schema: Mapping[str, Any], ref: str) -> Any:
    part: Any = schema
    for key in ref.split("/")[1:]:
        part = part[int(key) if isinstance(part, list) else key]
    return part
