"""Chats as text, judged by transformers' own rendering of the same template and history."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from jinja2 import TemplateError
from llama_cpp import llama_chat_format
from transformers.utils.chat_template_utils import render_jinja_template

from steerplug.chat.renderer import Renderer
from steerplug.chat.template import Message
from steerplug.chat.tool import Tool
from steerplug.engine.vocab import Vocab
from tests.helpers.families import BOTH, FAMILIES, OSLO


class TwoTokens:
    """A vocabulary as far as a template asks for it."""

    bos, eos = 0, 1

    def piece(self, token: int, special: bool) -> bytes:
        assert special
        return (b"<s>", b"</s>")[token]

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        assert special
        return [1] if text == "</s>" else list(range(2, 2 + len(text)))

    def ends_generation(self, token: int) -> bool:
        return token == self.eos


def renderer(source: str) -> Renderer:
    return Renderer(source, cast(Vocab, TwoTokens()), "it")


def ours(
    source: str, messages: Sequence[Message], tools: Sequence[Tool] = (), **settings: Any
) -> str:
    return renderer(source).render(messages, tools, **settings)


def theirs(
    source: str, messages: Sequence[Message], tools: Sequence[Tool] = (), *,
    add_generation_prompt: bool = True, variables: Mapping[str, Any] | None = None,
) -> str:
    (text,), _ = render_jinja_template(
        [[as_openai(message) for message in messages]],
        tools=[
            {"type": "function", "function": {
                "name": tool.name, "description": tool.description, "parameters": tool.parameters,
            }}
            for tool in tools
        ] or None,
        chat_template=source, add_generation_prompt=add_generation_prompt,
        bos_token="<s>", eos_token="</s>", **variables or {},
    )  # fmt: skip
    return str(text)


def as_openai(message: Message) -> dict[str, Any]:
    shown = dict(message)
    if calls := shown.pop("tool_calls", None):
        shown["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {
                "name": call.name, "arguments": json.loads(call.arguments)}}
            for call in calls
        ]  # fmt: skip
    return shown


SYSTEM: Message = {"role": "system", "content": "Be <b>brief</b> & kind, “ünï”."}
USER: Message = {"role": "user", "content": "How is it in Oslo?"}
ASSISTANT: Message = {"role": "assistant", "content": "  Cold.\n"}
AGAIN: Message = {"role": "user", "content": "And now?"}
CALLS: Message = {"role": "assistant", "content": "", "tool_calls": (OSLO,)}
RESULT: Message = {
    "role": "tool", "content": "4 °C", "tool_call_id": OSLO.id, "name": OSLO.name
}  # fmt: skip
AGENT = [USER, CALLS, RESULT]

# What transformers' environment has

WRITTEN = {
    "JSON": "{{ messages | tojson }}",
    "JSON in ASCII": "{{ messages | tojson(ensure_ascii=true) }}",
    "indented JSON": "{{ messages | tojson(indent=2) }}",
    "JSON indented by text": "{{ messages | tojson(indent='\t') }}",
    "dense JSON": "{{ messages | tojson(separators=(',', ':')) }}",
    "sorted JSON": "{{ messages | tojson(sort_keys=true) }}",
    "JSON by position": "{{ messages | tojson(true, 1, (', ', '='), true) }}",
    "JSON of a variable": (
        "{{ messages | tojson }}{{ tools | tojson }}{{ add_generation_prompt | tojson(indent=4) }}"
    ),
    "a generation block": (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}\n"
        "  {% generation %}\n{{ m.content }}{{ eos_token }}\n  {%- endgeneration %}\n"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "names set in a generation block": (
        "{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = loop.index %}{{ x }}"
        "{{ m.content }}{% endgeneration %}{{ x }}{% endfor %}"
    ),
    "breaks and continues": (
        "{% for m in messages %}{{ m.content }}{% if loop.index == 2 %}{% continue %}{% endif %}"
        ";{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}"
    ),
    "a date": "{{ strftime_now('%Y-%m-%d') }}{{ messages | tojson }}",
    "variables that are none": (
        "{{ tools is none }}{{ documents is none }}{{ date_string is defined }}"
        "{{ messages | map(attribute='content') | join }}"
    ),
    "a namespace, a dict and a joiner": (
        "{% set ns = namespace(n=0) %}{% set comma = joiner(';') %}{% set d = dict(a=1) %}"
        "{% for m in messages %}{% set ns.n = ns.n + d.a %}{{ comma() }}{{ ns.n }}{{ m.content }}"
        "{% endfor %}"
    ),
    "a recursive loop": (
        "{% for m in messages recursive %}{{ m.content if m.content else m }}"
        "{{ loop(m.content | list) if m.content }}{% endfor %}"
    ),
    "neighbours in a loop": (
        "{% for m in messages %}{{ (loop.previtem or m).role }}{{ m.content }}"
        "{{ loop.nextitem.role if not loop.last }}"
        "{{ loop.last }}{{ loop.revindex }}{% endfor %}"
    ),
    "blocks with spaces around them": (
        "{% for m in messages %}\n    {% if true %}\n  {{ m.content }}\n\t{% endif %}\n{% endfor %}"
    ),
    "a macro and a filter block": (
        "{% macro turn(m) %}[{{ m.role }}] {{ caller() }}{% endmacro %}{% for m in messages %}"
        "{% call turn(m) %}{% filter trim %} {{ m.content }} {% endfilter %}{% endcall %}"
        "{% endfor %}"
    ),
}


@pytest.mark.parametrize("feature", WRITTEN)
def test_what_transformers_environment_has_writes_the_same_here(feature: str) -> None:
    messages = [SYSTEM, USER, ASSISTANT, AGAIN]
    assert ours(WRITTEN[feature], messages) == theirs(WRITTEN[feature], messages)


def test_a_reason_that_a_template_gives_is_in_the_refusal() -> None:
    source = "{{ raise_exception('Only on Sundays') }}"
    with pytest.raises(TemplateError, match="Only on Sundays"):
        theirs(source, [USER])
    with pytest.raises(Exception, match=r"refuses these messages \(Only on Sundays\)"):
        ours(source, [USER])


# Whole chats

PACKAGED = {
    name: getattr(llama_chat_format, f"{name}_CHAT_TEMPLATE")
    for name in ("CHATML", "MISTRAL_INSTRUCT", "MIXTRAL_INSTRUCT", "LLAMA3_INSTRUCT")
}
SOURCES = PACKAGED | {name: source for name, (source, _) in FAMILIES.items()}
HISTORIES: dict[str, list[Message]] = {
    "a question": [USER],
    "a system message": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ASSISTANT, AGAIN],
    "neighbours": [USER, AGAIN],
    "a late system message": [USER, ASSISTANT, SYSTEM, AGAIN],
    "two system messages": [SYSTEM, SYSTEM, USER],
    "the assistant first": [ASSISTANT, USER],
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("answers", [True, False])
def test_a_chat_that_transformers_writes_is_written_the_same(
    name: str, history: str, answers: bool
) -> None:
    try:
        wanted = theirs(SOURCES[name], HISTORIES[history], add_generation_prompt=answers)
    except TemplateError:
        if history == "the assistant first":
            return
        text = ours(SOURCES[name], HISTORIES[history], add_generation_prompt=answers)
        places = [text.index(m["content"].strip()) for m in HISTORIES[history]]
        assert places == sorted(places)
        return
    assert ours(SOURCES[name], HISTORIES[history], add_generation_prompt=answers) == wanted


@pytest.mark.parametrize("name", ["Qwen", "Llama", "Mistral", "Functionary"])
@pytest.mark.parametrize("rest", [[], [ASSISTANT, AGAIN]])
def test_tools_that_a_template_shows_are_written_as_by_transformers(
    name: str, rest: list[Message]
) -> None:
    source, messages = FAMILIES[name][0], [*AGENT, *rest]
    assert ours(source, messages, BOTH) == theirs(source, messages, BOTH)


def test_variables_are_the_same_to_both() -> None:
    source = PACKAGED["CHATML"] + "{{ '<think>' if enable_thinking else '<answer>' }}"
    variables = {"enable_thinking": False}
    assert ours(source, [USER], variables=variables) == theirs(source, [USER], variables=variables)


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_are_known_by_the_names_that_transformers_gives_them(name: str) -> None:
    source = "{% for m in messages %}{{ m.thinking }};{{ m.reasoning_content }};{{ m.content }}" \
             "{% endfor %}"  # fmt: skip
    messages = [USER, {**ASSISTANT, name: "Hm."}, AGAIN]
    assert ours(source, messages) == theirs(source, messages)
