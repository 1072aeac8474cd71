"""Grammars of tool calls: what is written around them is fixed, arguments follow their schemas."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial

from steerplug.chat.calls.answers import ways
from steerplug.chat.calls.form import (
    MARK,
    PLACES,
    Form,
    closers,
    name_end,
    pattern,
    until_arguments,
)
from steerplug.chat.calls.member_rules import MemberRules
from steerplug.chat.calls.members import n_members
from steerplug.chat.tool import AUTO, NONE, REQUIRED, Tool, Tools, closed
from steerplug.engine.call_marks import CallMarks, Way
from steerplug.engine.constraint import (
    Choice,
    Constraint,
    Grammar,
    Lark,
    Regex,
    lark_json,
    lark_regex,
    lark_text,
)
from steerplug.engine.openings import Opening
from steerplug.engine.vocab import Vocab
from steerplug.errors import RequestError, nearest

_logger = logging.getLogger("steerplug.chat")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def check_tools(tools: Tools) -> None:
    """Refuse tools that cannot be told apart, and a choice that is none.

    Raises:
        RequestError: a name is invalid or there twice, arguments are no object, or the choice asks
            for what is not there.
    """
    names = [tool.name for tool in tools.tools]
    for tool in tools.tools:
        _check_tool(tool, names)
    if tools.choice in (AUTO, NONE) or (names and tools.choice == REQUIRED):
        return
    if not names:
        raise RequestError(
            f"the choice of tools is {tools.choice!r} and there are no tools; give some, or leave "
            "the choice out."
        )
    if tools.choice not in names:
        guess = nearest(tools.choice, names) or ";"
        raise RequestError(
            f"the choice of tools is {tools.choice!r}{guess} give {AUTO}, {NONE}, {REQUIRED} or "
            f"one of {', '.join(names)}."
        )


def _check_tool(tool: Tool, names: list[str]) -> None:
    if not _NAME.fullmatch(tool.name) or tool.name in (AUTO, NONE, REQUIRED):
        raise RequestError(
            f"a tool is named {tool.name!r}; give it 1 to 64 letters, digits and _ . -, other than "
            f"{AUTO}, {NONE} and {REQUIRED}."
        )
    if names.count(tool.name) > 1:
        raise RequestError(f"two tools are named {tool.name!r}; give each its own name.")
    parameters = tool.parameters
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise RequestError(
            f"the parameters of the tool {tool.name!r} are no JSON Schema of an object; give one, "
            'such as {"type": "object", "properties": {}}.'
        )


def usable(tools: Tools) -> Tools:
    """Return tools without those that no grammar expresses, if others are left to choose from.

    What is set aside is said in the log, once.

    Raises:
        RequestError: no tool is left, or the one that is asked for is set aside.
    """
    if tools.choice == NONE:
        return tools
    refused = {tool.name: error for tool in tools.tools if (error := _refusal(tool))}
    left = tuple(tool for tool in tools.tools if tool.name not in refused)
    if tools.choice in refused or (refused and not left):
        raise refused.get(tools.choice) or next(iter(refused.values()))
    if tools.choice not in (AUTO, REQUIRED):
        return tools
    for error in refused.values():
        _say_once(f"{error} The tool is set aside, and the others are offered.")
    return replace(tools, tools=left)


def _refusal(tool: Tool) -> RequestError | None:
    """Return why no grammar expresses the arguments of a tool, if so."""
    try:
        _arguments(tool)
    except RequestError as error:
        return error
    return None


@lru_cache(256)
def _say_once(sentence: str) -> None:
    _logger.warning("%s", sentence)


def reply_grammar(
    form: Form, tools: Tools, wanted: Grammar | None, vocab: Vocab
) -> tuple[Grammar | None, CallMarks]:
    """Return what a reply must follow from its beginning, and how it calls tools.

    Args:
        form: how the model writes calls.
        tools: what it may call, checked.
        wanted: what a reply without calls must follow.
        vocab: the model's vocabulary.

    Raises:
        RequestError: no grammar expresses a tool's parameters, or `wanted` cannot be joined.
    """
    known = ways(form, tools, has_format=wanted is not None)
    marks = CallMarks(tuple(_way(*one) for one in known))
    if not tools or tools.choice == NONE:
        return wanted, replace(marks, forbidden=bool(tools))
    if tools.choice == AUTO and wanted is None:
        held = [_then(one, tools, vocab) for one, _ in known]
        _check(held[0], tools, vocab)  # the others hold the same schemas
        pairs = zip(marks.ways, held, strict=True)
        return None, CallMarks(tuple(replace(way, then=then) for way, then in pairs))
    if tools.choice == AUTO and wanted is not None:
        _check_apart(form, wanted, vocab)
    other = f" | {_inlined(wanted)}" if tools.choice == AUTO and wanted is not None else ""
    calls = _calls(form, tools, vocab)
    rules = f"start: {_say(form.opening, form, vocab)} calls{other}\n{calls}"
    whole = Lark(rules, closers(form))
    _check(whole, tools, vocab)
    return whole, marks


def _way(form: Form, opening: Opening) -> Way:
    naming = pattern(form.opening + form.head), pattern(form.again)
    named = name_end(form), until_arguments(form)
    members, tail = form.members, pattern(form.tail)
    n_arguments = None if members is None else partial(n_members, members, tail)
    return Way(opening, form.closing, naming, named, n_arguments)


def _then(form: Form, tools: Tools, vocab: Vocab) -> Lark:
    """Return what a reply follows that has written the opening of a form."""
    rules = f"start: head calls\n{_head(form, vocab)}\n{_calls(form, tools, vocab)}"
    return Lark(rules, closers(form))


def _calls(form: Form, tools: Tools, vocab: Vocab) -> str:
    """Return the rules of what follows the opening mark."""
    names = tools.callable_names
    callable_ = [tool for tool in tools.tools if tool.name in names]
    is_open = tools.several and form.again
    again = f" ({_say(form.again, form, vocab)} call)*" if is_open else ""
    head, end = _say(form.head, form, vocab), _say(form.end, form, vocab)
    rest = r' "\n"?' if is_open and not form.end else ""  # before the turn's end
    rules = [f"calls: {head} call{again} {end}{rest}"]
    rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(callable_))))
    for i, tool in enumerate(callable_):
        name = _say(tool.name + form.middle, form, vocab)
        arguments = f"arguments_{i}"
        rules += _members(form, tool, arguments, vocab) if form.members else [
            f"{arguments}: {_arguments(tool)}"
        ]  # fmt: skip
        rules.append(f"call_{i}: {name} {arguments} {_say(form.tail, form, vocab)}")
    return "\n".join(rules)


def _members(form: Form, tool: Tool, name: str, vocab: Vocab) -> list[str]:
    """Return the rules of arguments that are no JSON object."""
    assert form.members is not None

    def say(text: str) -> str:
        return _say(text, form, vocab)

    def mark_within(text: str) -> str:
        parts = _parts(text, form)
        marks = (i for i, part in enumerate(parts) if lark_text(part, vocab).startswith("<["))
        return "".join(parts[next(marks, len(parts)) :])

    schema = closed({"type": "object", **tool.parameters})
    return MemberRules(form.members, schema, name, say, mark_within).lines()


def _head(form: Form, vocab: Vocab) -> str:
    """Return the rule of any text up to the end of the opening mark."""
    opening = _say(form.opening, form, vocab)
    if opening.startswith("<"):
        return f"head: {opening}"
    return f"head[lazy]: /(?s:.*){lark_regex(form.opening)}/"


def _say(text: str, form: Form, vocab: Vocab) -> str:
    """Return a fixed text in Lark, where marks may be tokens of their own, and places are open.

    A bracket at its beginning stands alone: there JSON may begin as well.
    """
    said = list[str]()
    for part in _parts(text, form):
        if part in PLACES:
            said.append(f"/{PLACES[part]}/")
        elif MARK.fullmatch(part) or part in (form.opening, form.closing):
            said.append(lark_text(part, vocab))
        else:
            said.append(json.dumps(part, ensure_ascii=False))
    return " ".join(said)


def _parts(text: str, form: Form) -> list[str]:
    """Return a fixed text in parts, each mark and each place a part of its own."""
    marks = "|".join([*(re.escape(mark) for mark in (form.opening, form.closing) if mark),
                      MARK.pattern, *PLACES])  # fmt: skip
    known = re.split(f"({marks})", text)
    return [part for each in known for part in re.split(r"(?<=^\{)", each) if part]


def _arguments(tool: Tool) -> str:
    try:
        return lark_json(closed({"type": "object", **tool.parameters}))
    except RequestError as error:
        raise _of(tool, error) from None


def _inlined(wanted: Grammar) -> str:
    if isinstance(wanted, Mapping):
        return lark_json(wanted)
    if isinstance(wanted, Choice):
        return " | ".join(json.dumps(option, ensure_ascii=False) for option in wanted.options)
    if isinstance(wanted, Regex):
        return "/(?:{})/".format(wanted.pattern.replace("/", r"\/"))
    raise RequestError(
        "a reply that may call tools cannot follow a Lark grammar as well; give a JSON Schema, or "
        "leave one of them out."
    )


def _check_apart(form: Form, wanted: Grammar, vocab: Vocab) -> None:
    """Refuse a format that no reply can follow, because all begin as a call does."""
    if Constraint(vocab, wanted).forced_text().startswith(form.opening):
        raise RequestError(
            f"a reply in this format begins with {form.opening}, as a call of this model's does; "
            "put another key first, or leave out the tools or the format."
        )


def _check(grammar: Lark, tools: Tools, vocab: Vocab) -> None:
    """Refuse a grammar that cannot be followed, naming the tool that is the reason."""
    try:
        Constraint(vocab, grammar)
    except RequestError:
        for tool in tools.tools:
            try:
                Constraint(vocab, tool.parameters)
            except RequestError as error:
                raise _of(tool, error) from None
        raise


def _of(tool: Tool, error: RequestError) -> RequestError:
    return RequestError(f"in the tool {tool.name!r}, {error}")
