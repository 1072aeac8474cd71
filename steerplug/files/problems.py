"""What pydantic found wrong with a stranger's values, as one sentence for their author.

Contract: of a file, the sentence names the file, the line, the key by its dotted path, what was
given, and what is right: the nearest known key or word, or an example (a model's field carries its
own, in `Field(examples=...)`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from steerplug.errors import nearest
from steerplug.files.yaml_file import Place, YamlFile, printable


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, and a sentence without the file's name and full stop."""

    place: Place
    text: str

    def sentence(self, file: YamlFile, rest: str = "") -> str:
        """Return the whole sentence, with the file and line; `rest` stands at its end."""
        sentence = f"{file.at(self.place)}: {self.text}{rest}"
        return sentence if sentence.endswith("?") else sentence + "."


def explain(
    error: ValidationError, model: type[BaseModel], file: YamlFile, what: str = "a preset"
) -> str:
    """Return one sentence for pydantic's findings: the first of them, and how many more there are.

    Unknown keys come first, because they explain what is missing.

    Args:
        error: what pydantic found.
        model: what was asked of the values.
        file: the values.
        what: what the file should be.
    """
    first, *others = findings(error, model, file, what)
    more = len(others)
    rest = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
    return first.sentence(file, rest)


def findings(
    error: ValidationError, model: type[BaseModel], file: YamlFile, what: str = "a preset"
) -> list[Finding]:
    """Return all that pydantic found wrong, unknown keys first."""
    problems: dict[Place, list[dict[str, Any]]] = {}
    for problem in sorted(error.errors(), key=lambda p: p["type"] != "extra_forbidden"):
        place = place_of(problem["loc"], problem["type"], file.data)
        problems.setdefault(place, []).append(dict(problem))
    # A value that fits no branch of a union is reported for each branch; the deepest knows best.
    places = [p for p in problems if not any(p == q[: len(p)] and p != q for q in problems)]
    return [Finding(place, _say(place, problems[place], model, what)) for place in places]


def place_of(loc: Sequence[str | int], kind: str, data: object) -> Place:
    """Return what of `loc` the author wrote; pydantic adds the names of union branches.

    Args:
        loc: where pydantic says that the problem is.
        kind: pydantic's type of the problem.
        data: what was validated.
    """
    place: list[str | int] = []
    for i, step in enumerate(loc):
        is_key = isinstance(data, Mapping) and step in data
        is_index = isinstance(data, list | tuple) and isinstance(step, int)
        if is_key or is_index:
            data = data[step]  # type: ignore[index]
            place.append(step)
        elif i == len(loc) - 1 and kind in ("missing", "extra_forbidden"):
            place.append(step)
    return tuple(place)


def _say(
    place: Place, problems: list[dict[str, Any]], model: type[BaseModel], what: str
) -> str:
    """Return where, what was given and what is right, without a full stop."""
    problem = next((p for p in problems if p["type"] == "value_error"), problems[0])
    kind, context = problem["type"], problem.get("ctx", {})
    where = ".".join(printable(str(step)) for step in place)
    models, owner = _look_up(model, problem["loc"])
    if kind == "extra_forbidden":
        keys = [f.alias or name for m in models for name, f in m.model_fields.items()]
        cure = nearest(str(place[-1]), keys) or f"; the keys here are: {', '.join(keys)}"
        return f"`{where}` is not a key that {what} has{cure}"
    if kind == "missing":
        return f"`{where}` is missing{_example(place, owner, 'add')}"
    if kind == "value_error":
        return f"`{where}` {context['error']}" if where else str(context["error"])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        kinds = _kinds_in(owner)
        cure = nearest(str(context.get("tag", "")), kinds) or f"; use one of {', '.join(kinds)}"
        given = f"{_shown(context['tag'])}, which is unknown" if "tag" in context else "missing"
        return f"`{where}.kind` is {given}{cure}"
    if kind == "string_too_long":
        n = len(problem["input"])
        return f"`{where}` is {n} characters long, and may have {context['max_length']}; shorten it"
    if kind == "string_unicode":
        held = f"`{where}`" if where else f"the key {_shown(problem['input'])}"
        return f"{held} holds half of a character (a lone surrogate, as U+D800); remove it"
    why = _not_text(problem) or _misfit(problems) + _cure(place, problem, owner)
    return f"`{where}` is {_shown(problem['input'])}{why}"


def _not_text(problem: dict[str, Any]) -> str:
    """Return what to say of a text that YAML took for something else, or that is blank."""
    kind, given = problem["type"], problem["input"]
    if isinstance(given, str) and not given.strip() and kind.startswith("string_"):
        return ", which is blank; write a text or remove the key"
    if kind == "string_type" and isinstance(given, bool):
        words = "yes, on or true" if given else "no, off or false"
        return f", as YAML reads {words}; put the text in quotes"
    if kind == "string_type" and isinstance(given, int | float | date):
        return ", which YAML does not read as text; put it in quotes"
    return ""


def _misfit(problems: list[dict[str, Any]]) -> str:
    """Return why a value does not fit, in pydantic's words where it has one reason only."""
    kinds = {problem["type"] for problem in problems}
    if isinstance(problems[0]["input"], str) and kinds & {"float_type", "int_type"}:
        return ", which YAML reads as text"
    if len({problem["loc"] for problem in problems}) > 1:
        return ", which does not fit"
    must = re.sub(r"^\w+ should ", "must ", problems[0]["msg"])
    must = re.sub(r" or instance of \w+| or object to extract fields from", "", must)
    return ", but " + must.replace("valid dictionary", "mapping").replace("valid tuple", "list")


def _cure(place: Place, problem: dict[str, Any], owner: FieldInfo | None) -> str:
    guess = ""
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        guess = nearest(problem["input"], re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
    return guess or _example(place, owner, "write")


def _look_up(
    model: type[BaseModel], loc: Sequence[str | int]
) -> tuple[list[type[BaseModel]], FieldInfo | None]:
    """Return the models that own the last key of `loc`, and the last field on the way there."""
    models, owner, owners = [model], None, [model]
    for step in loc:
        fields = [f for m in models for n, f in m.model_fields.items() if step == (f.alias or n)]
        if fields:
            owner, owners = fields[0], models
            models = [m for f in fields for m in _models_in(f.annotation)]
        else:
            tagged = [m for m in models if "kind" in m.model_fields and step in _kinds(m)]
            models = owners = tagged or models
    return owners, owner


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation)


def _kinds_in(owner: FieldInfo | None) -> list[str]:
    return [k for m in _models_in(owner.annotation) for k in _kinds(m)] if owner else []


def _example(place: Place, owner: FieldInfo | None, verb: str) -> str:
    if owner is None or not owner.examples:
        return ""
    key = next(step for step in reversed(place) if isinstance(step, str))
    lines = [
        yaml.safe_dump({key: example}, default_flow_style=True, sort_keys=False, width=1000)[1:-2]
        for example in owner.examples
    ]
    return f"; {verb} for example " + " or ".join(f"`{line}`" for line in lines)


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    text = str(value) if isinstance(value, date) else text
    return text if len(text) <= 60 else text[:57] + "..."
