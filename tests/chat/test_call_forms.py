"""The form that a template writes calls in, read from what it makes of a planted chat.

The judge of what a template writes is transformers' own rendering of the same chat.
"""

import json
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from steerplug.chat.calls.answers import ways
from steerplug.chat.calls.form import PIPED, TAGGED, Form
from steerplug.chat.calls.grammar import reply_grammar
from steerplug.chat.calls.plain import written
from steerplug.chat.calls.stream import CallStream
from steerplug.chat.template import ChatTemplate, Message
from steerplug.chat.tool import ToolCall, Tools
from steerplug.engine.model import Model
from tests.helpers.families import BOTH, CLOCK, FAMILIES, OSLO, template

EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
NAME, ARGUMENTS = "call.function.name", "(call.function.arguments | tojson)"


def calling(call: str, begin: str = "''", between: str = "''", end: str = "''") -> str:
    """A template that shows tools, and calls by these expressions; `i` is the call's place."""
    return (
        "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
        "{{ message.content or '' }}{% for call in message.tool_calls or [] %}"
        "{% set i = loop.index0 | string %}"
        f"{{{{ {begin} if loop.first else {between} }}}}{{{{ {call} }}}}"
        f"{{{{ {end} if loop.last else '' }}}}"
        "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


SHAPES = {
    "a name behind its mark": calling(f"'[TOOL_CALLS]' + {NAME} + '[ARGS]' + {ARGUMENTS}"),
    "a name and its arguments alone": calling(f"'<|call|>' + {NAME} + {ARGUMENTS}"),
    "a list between marks": calling(
        f"""'{{"name": "' + {NAME} + '", "arguments": ' + {ARGUMENTS} + '}}'""",
        "'<|tool_call|>['", "', '", "']<|/tool_call|>'",
    ),
    "other keys, and a number": calling(
        f"""'{{"tool_call_id": "' + i + '", "tool_name": "' + {NAME}"""
        f""" + '", "parameters": ' + {ARGUMENTS} + '}}'""",
        "'<|START_ACTION|>[\\n    '", "',\\n    '", "'\\n]<|END_ACTION|>'",
    ),
    "a name as the key": calling(
        f"""'{{"' + {NAME} + '": ' + {ARGUMENTS} + '}}'""", "'<|prefix|>['", "', '", "']<|suffix|>'"
    ),
    "a fence around the arguments": calling(
        f"""'<|call▁begin|>function<|sep|>' + {NAME} + '\\n```json\\n' + {ARGUMENTS}"""
        " + '\\n```<|call▁end|>'",
        "'<|calls▁begin|>'", "'\\n'", "'<|calls▁end|>'",
    ),
    "an identifier before the name": calling(
        f"'<|begin|>' + call.id + '<|name|>' + {NAME} + '<|args|>' + {ARGUMENTS} + '<|end|>'",
        "'<|calls|>'",
    ),
    "words": calling(
        f"""'{{\\n "tool_name": "' + {NAME} + '",\\n "parameters": ' + {ARGUMENTS} + '\\n}}'""",
        "'Action:\\n```json\\n[\\n'", "',\\n'", "'\\n]```'",
    ),
    "a recipient": calling(
        f"' to=functions.' + {NAME} + '<|channel|>commentary json<|message|>' + {ARGUMENTS}"
    ),
    "a thought before the calls": calling(
        f"""'<tool_call>{{"name": "' + {NAME} + '", "arguments": ' + {ARGUMENTS}"""
        " + '}</tool_call>'",
        "'<think>\\n\\n</think>\\n\\n'", "'\\n'",
    ),
}  # fmt: skip


def form_of(source: str, model: Model) -> Form:
    return ChatTemplate(source, model.vocab, "it").form


def peers(source: str, calls: tuple[ToolCall, ...]) -> str:
    """How transformers writes a chat that ends in calls."""
    functions = [{"name": tool.name, "parameters": dict(tool.parameters)} for tool in BOTH]
    chat: list[dict[str, Any]] = [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": call.id, "type": "function",
             "function": {"name": call.name, "arguments": {"city": "Oslo", "days": 2}
                          if call is OSLO else {}}} for call in calls]},
    ]  # fmt: skip
    tools = [{"type": "function", "function": function} for function in functions]
    (text,), _ = render_jinja_template([chat], tools, chat_template=source)
    return str(text)


@EVERY_FAMILY
def test_the_form_is_read_from_what_a_template_makes_of_calls(family: str, model: Model) -> None:
    assert template(family, model).form == FAMILIES[family][1]


@pytest.mark.parametrize("shape", SHAPES)
def test_calls_are_written_as_transformers_writes_them_by_the_template(
    shape: str, model: Model
) -> None:
    source = SHAPES[shape]
    form = form_of(source, model)
    assert form != TAGGED
    calls = (OSLO, CLOCK) if form.again else (OSLO,)
    text = peers(source, calls)
    assert text.endswith(f"{written(calls, form)}<|im_end|>\n")
    if "think" not in text:
        assert text.endswith(f"assistant\n{written(calls, form)}<|im_end|>\n")


@pytest.mark.parametrize(
    "call",
    [
        f"'<tool_call><function=' + {NAME} + '><parameter=city>' + call.function.arguments.city"
        " + '</parameter></function></tool_call>'",
        f"""'<|call|>' + {NAME} + '(wood="' + (call.function.arguments.wood or '') + '")'""",
        f"'<tool_call>' + {NAME} + '=' + ({ARGUMENTS} | tojson)",
        f"{NAME} + '\\n' + {ARGUMENTS}",  # nothing tells it from text
        f"'<|im_end|>\\n<|im_start|>call\\n' + {NAME} + '=' + {ARGUMENTS}",  # a turn of its own
    ],
)
def test_what_is_not_to_be_read_back_is_asked_for_and_told_in_a_form_that_is(
    call: str, model: Model
) -> None:
    chatty = ChatTemplate(calling(call), model.vocab, "it")
    text = chatty.render([
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": "", "tool_calls": (OSLO,)},
    ], BOTH)  # fmt: skip
    assert chatty.form == TAGGED
    assert text.count(TAGGED.opening) == 2  # told once and called once
    assert written([OSLO], TAGGED) in text


def test_a_mark_that_is_in_the_source_and_never_written_is_none(model: Model) -> None:
    unused = "{% if false %}[TOOL_CALLS]<tool_call><function=<parameter=<arg_key>{% endif %}"
    for family, (source, form) in FAMILIES.items():
        assert form_of(unused + source, model) == form, family


def test_a_template_that_drops_calls_is_taken_at_its_word(model: Model) -> None:
    words = "{% if tools %}Call with WORD and a JSON list, name and arguments.{% endif %}"
    silent = calling("''")
    assert form_of(words.replace("WORD", "<|tool_call|>") + silent, model) == PIPED
    assert form_of(words.replace("WORD", "<tool_call>") + silent, model) == TAGGED


def test_an_identifier_that_the_model_wrote_is_the_identifier_of_its_call() -> None:
    form = FAMILIES["Ministral"][1]
    stream = CallStream(ways(form, Tools()))
    list(stream.feed(written([OSLO, CLOCK], form), True))
    assert stream.calls == (OSLO, CLOCK)


@pytest.mark.parametrize("name", ["Ministral", "Kimi", "Qwen", "Mistral"])
def test_a_reply_is_in_its_arguments_from_the_name_on_to_their_end(
    name: str, model: Model
) -> None:
    form = FAMILIES[name][1]
    nested = ToolCall(OSLO.id, "now", json.dumps({"list": [1, {"name": "now", "x": ", {"}]}))
    text = written([nested], form)
    _, calls = reply_grammar(form, Tools(BOTH), None, model.vocab)
    first = text.index(nested.arguments)
    for n in range(len(text)):
        made = list(calls.ways[0].calls(text[:n]))
        assert bool(made) >= (n >= first)
        is_in = first <= n < first + len(nested.arguments)
        goes_on = bool(made) and made[-1][1] is None
        assert goes_on == is_in or text.index("now") < n < first


# A second template


def test_a_chat_with_tools_is_written_by_the_template_for_it(model: Model) -> None:
    plain, (tooled, form) = calling("''").replace("assistant", "Me"), FAMILIES["Kimi"]
    both = ChatTemplate(plain, model.vocab, "it", tooled)
    asked: list[Message] = [{"role": "user", "content": "How is it?"}]
    assert both.form == form
    assert both.render(asked) == ChatTemplate(plain, model.vocab, "it").render(asked)
    alone = ChatTemplate(tooled, model.vocab, "it")
    called: list[Message] = [*asked, {"role": "assistant", "content": "", "tool_calls": (OSLO,)},
              {"role": "tool", "content": "Sunny.", "tool_call_id": OSLO.id}]  # fmt: skip
    for chat, tools in ((asked, BOTH), (called, BOTH), (called, ())):
        assert both.render(chat, tools) == alone.render(chat, tools)


def test_the_template_that_a_file_has_for_tools_is_read(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = type(model).metadata
    second = {"tokenizer.chat_template.tool_use": FAMILIES["Kimi"][0]}
    monkeypatch.setattr(
        type(model), "metadata", lambda self, key: second.get(key) or metadata(self, key)
    )
    assert ChatTemplate.of(model).form == FAMILIES["Kimi"][1]
