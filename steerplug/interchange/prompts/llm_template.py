"""Templates of the command line tool `llm`: YAML, its variables like `$name`."""

from collections.abc import Mapping
from typing import Any

from steerplug.errors import PresetError
from steerplug.interchange.prompts.dotprompt import filled
from steerplug.interchange.prompts.sorting import INSTRUCTION, QUESTION, Sorting
from steerplug.interchange.prompts.variables import in_dollars

_STAYS = {
    "model": "the model; name one with -m",
    "options": "settings of sampling; say them where the model is run",
    "fragments": "texts in other files, which are not read; they stay a prompt",
    "system_fragments": "texts in other files, which are not read; they stay a prompt",
    "attachments": "they belong to a request",
    "attachment_types": "they belong to a request",
    "tools": "tools belong to a request",
    "functions": "Python code; it is not run",
    "extract": "what llm does with a reply",
    "extract_last": "what llm does with a reply",
}


def sort_template(data: Mapping[str, Any], source: str) -> Sorting:
    """Return a template of llm as a preset on its way.

    Raises:
        PresetError: its system or prompt is no text.
    """
    sorting = Sorting("a template of llm", source)
    values = filled(data.get("defaults"), "defaults", sorting)
    system, prompt = (_text(data, key, source) for key in ("system", "prompt"))
    sorting.instruct("system", in_dollars(system, values, source), INSTRUCTION)
    if prompt and system:
        sorting.stay("prompt", QUESTION)
    elif prompt:
        sorting.instruct("prompt", in_dollars(prompt, values, source), INSTRUCTION)
    if data.get("schema_object"):
        sorting.reply_in_json("schema_object")
        sorting.stay("schema_object itself", "a schema belongs to a request")
    sorting.leave(data, _STAYS, ("name", "system", "prompt", "defaults", "schema_object"))
    return sorting


def _text(data: Mapping[str, Any], key: str, source: str) -> str:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise PresetError(
            f"{source}: `{key}` is {type(value).__name__}, where a template has a text; quote it."
        )
    return value or ""
