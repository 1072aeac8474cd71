"""dotprompt: a `.prompt` file, YAML between lines of `---` and then a Handlebars template."""

import re
from collections.abc import Mapping
from typing import Any

from steerplug.errors import PresetError
from steerplug.files.yaml_file import read_yaml
from steerplug.interchange.prompts.sorting import PEOPLE, Part, Sorting
from steerplug.interchange.prompts.variables import Value, split_by_role

_FENCE = re.compile(r"\A(?:[ \t]*(?:#[^\n]*)?\n)*---[ \t]*\n")
_END = re.compile(r"^---[ \t]*(?:\n|\Z)", re.MULTILINE)
_LONGEST_VALUE = 1000
_ROLES = {"model": "assistant"}
_STAYS = {
    "model": "the model; name one with -m",
    "config": "settings of sampling; say them where the model is run",
    "tools": "tools belong to a request",
    "toolDefs": "tools belong to a request",
    "maxTurns": "it belongs to a request",
    "description": PEOPLE,
    "metadata": PEOPLE,
}
_TITLES = ("name", "variant", "version", "input", "output")


def begins_like_one(text: str) -> bool:
    """Say whether a text begins with front matter."""
    return _FENCE.match(text) is not None


def sort_dotprompt(text: str, source: str) -> Sorting:
    """Return a dotprompt as a preset on its way.

    Raises:
        PresetError: its front matter is not plain YAML or never ends.
    """
    head, template = _parts(text, source)
    sorting = Sorting("a dotprompt", source)
    turns = split_by_role(template, _values(head, sorting), source)
    sorting.converse([(_ROLES.get(role, role), said) for role, said in turns])
    output = head.get("output")
    if isinstance(output, Mapping):
        if output.get("format") == "json" or ("schema" in output and "format" not in output):
            sorting.reply_in_json("output")
        if output.get("schema"):
            sorting.stay("output.schema", "a schema belongs to a request")
    elif output:
        sorting.stay("output", "it has no `format` and no `schema`")
    sorting.leave(head, _STAYS, _TITLES)
    return sorting


def _parts(text: str, source: str) -> tuple[Mapping[str, Any], str]:
    begin = _FENCE.match(text)
    if begin is None:
        return {}, text
    end = _END.search(text, begin.end())
    if end is None:
        raise PresetError(f"{source} begins with `---` that no line ends; close its front matter.")
    above = "\n" * text.count("\n", 0, begin.end())  # so that errors name the file's own lines
    yaml = above + text[begin.end() : end.start()]
    is_said = any(line.strip() and not line.lstrip().startswith("#") for line in yaml.split("\n"))
    return (read_yaml(yaml.encode(), source, "`model: ...`").data if is_said else {}), text[
        end.end() :
    ]


def _values(head: Mapping[str, Any], sorting: Sorting) -> Value:
    """Return the values of variables that the front matter gives as defaults."""
    given = head.get("input")
    default = given.get("default") if isinstance(given, Mapping) else None
    return filled(default, "input.default", sorting)


def filled(values: object, where: str, sorting: Sorting) -> Value:
    """Return the values that a file gives its variables: texts and numbers that are not long."""
    known = {
        key: str(value)
        for key, value in (values.items() if isinstance(values, Mapping) else ())
        if isinstance(value, str | int | float) and not isinstance(value, bool)
        and len(str(value)) <= _LONGEST_VALUE
    }  # fmt: skip
    if known:
        sorting.taught.append(Part(where, "values that are filled in where a variable stands"))
    return known.get
