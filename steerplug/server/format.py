"""What a reply must follow, in the words of each server whose clients come here.

OpenAI's `response_format`, llama.cpp's `json_schema` and `grammar`, vLLM's `guided_*` and
`structured_outputs`, SGLang's `regex`, Ollama's `format`, TGI's `grammar`. GBNF is the one language
that the engine does not follow.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from steerplug.engine.constraint import ANY_JSON, Choice, Grammar, Lark, Regex
from steerplug.server.errors import Refused
from steerplug.server.fields import IGNORED_IN_FORMATS, check
from steerplug.server.requests import Body, ResponseFormat

_INSTEAD = "send a JSON schema, a regex, a choice or a Lark grammar"
_IN_FORMATS = IGNORED_IN_FORMATS | {
    "regex", "choice", "grammar", "value", "pattern", "choices", "definition"
}
_HARMLESS = ("disable_fallback", "disable_any_whitespace")


def asked_format(body: Body) -> Grammar | None:
    """Return what a body wants the reply to follow, in whatever field it says so.

    Raises:
        Refused: it cannot be read or followed, or two fields say different things.
    """
    formats = dict(_formats(body))
    if not formats:
        return None
    (first, grammar), *others = formats.items()
    for name, other in others:
        if other != grammar:
            raise Refused(f"`{first}` and `{name}` ask for two formats; send one.", param=name)
    return grammar


def size(grammar: Grammar) -> int:
    """Return how many characters a grammar has."""
    if isinstance(grammar, Mapping):
        return len(json.dumps(grammar))
    if isinstance(grammar, Choice):
        return sum(map(len, grammar.options))
    return len(grammar.pattern if isinstance(grammar, Regex) else grammar.text)


def _formats(body: Body) -> Iterator[tuple[str, Grammar]]:
    form = body.response_format
    if form is not None:
        for part in (form, *([form.json_schema] if form.json_schema else ())):
            check(part, _IN_FORMATS, "response_format: ", "response_format")
    if form is not None and form.type != "text":
        yield "response_format", _response_format(form)
    for name, read in _READERS.items():
        if value := getattr(body, name):
            yield name, read(name, value)


def _response_format(form: ResponseFormat) -> Grammar:
    if form.json_schema is not None and form.type == "json_schema":
        return form.json_schema.schema_
    more = form.model_extra or {}
    if form.type in ("json_object", "json", "json_schema"):
        schema = form.schema_ or more.get("value")
        return _json("response_format", schema) if schema else dict(ANY_JSON)
    keys = (form.type, "value", "pattern", "choices", "definition")
    value = next((more[key] for key in keys if more.get(key)), None)
    return {"regex": _regex, "choice": _choice, "grammar": _grammar}[form.type](
        "response_format", value
    )


def _json(name: str, value: Any) -> Grammar:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if isinstance(value, Mapping) and isinstance(value.get("schema"), Mapping):
        value = value["schema"]  # wrapped as OpenAI's clients do
    if not isinstance(value, Mapping):
        raise Refused(f"{name} holds no JSON Schema; send an object.", param=name)
    return dict(value)


def _regex(name: str, value: Any) -> Grammar:
    if not isinstance(value, str):
        raise Refused(f"{name} holds no regular expression; send it as text.", param=name)
    return Regex(value)


def _choice(name: str, value: Any) -> Grammar:
    if not (isinstance(value, list) and all(isinstance(x, str) and x for x in value)):
        raise Refused(f"{name} holds no choice; send a list of texts, none empty.", param=name)
    return Choice(tuple(value))


def _grammar(name: str, value: Any) -> Grammar:
    if isinstance(value, Mapping):
        return _typed(name, value)
    if not isinstance(value, str):
        raise Refused(f"{name} holds no grammar; {_INSTEAD}.", param=name)
    if "::=" in value:
        raise Refused(f"{name} is written in GBNF, which is not served; {_INSTEAD}.", param=name)
    return Lark(value)


def _typed(name: str, value: Mapping[str, Any]) -> Grammar:
    read = {"json": _json, "json_object": _json, "regex": _regex, "choice": _choice}
    kind = value.get("type")
    if kind not in read:
        raise Refused(f"{name} is of type {kind!r:.40}; {_INSTEAD}.", param=name)
    return read[kind](name, value.get("value"))


def _ollama(name: str, value: Any) -> Grammar:
    if value == "json":
        return dict(ANY_JSON)
    if isinstance(value, str):
        raise Refused(f"{name} is {value!r:.40}; send json, or a JSON schema.", param=name)
    return _json(name, value)


def _structured(name: str, value: Any) -> Grammar:
    if not isinstance(value, Mapping):
        raise Refused(f"{name} is no object; {_INSTEAD}.", param=name)
    formats = {key: content for key, content in value.items() if content and key not in _HARMLESS}
    if formats == {"json_object": True}:
        return dict(ANY_JSON)
    read = {"json": _json, "regex": _regex, "choice": _choice, "grammar": _grammar}
    if len(formats) != 1 or not formats.keys() <= read.keys():
        raise Refused(
            f"{name} says {', '.join(formats) or 'nothing'!s:.80}; give one of {', '.join(read)}.",
            param=name,
        )
    ((key, content),) = formats.items()
    return read[key](name, content)


_READERS: Mapping[str, Callable[[str, Any], Grammar]] = {
    "json_schema": _json, "guided_json": _json, "guided_regex": _regex, "regex": _regex,
    "guided_choice": _choice, "guided_grammar": _grammar, "grammar": _grammar, "ebnf": _grammar,
    "format": _ollama, "structured_outputs": _structured,
}  # fmt: skip
