"""Chats as tokens: exact spans for the templates of real models, and templates that mean harm.

The templates here keep the shape of the real ones: what they put around a turn, what they trim and
refuse. The vocabulary is a toy that spells text back exactly, with the model's control tokens.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import pytest

from steerplug.chat import sandbox
from steerplug.chat.checking import check_messages
from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.model import Model
from steerplug.engine.scope import Prompt
from steerplug.engine.vocab import Control, Vocab
from steerplug.errors import ModelError, RequestError


class ToyVocab:
    """Control tokens, words with the space before them, runs of line ends, single characters."""

    def __init__(self, bos: str, eos: str, *specials: str, adds_bos: bool = False) -> None:
        self.pieces = list(dict.fromkeys([bos, eos, *specials]))
        self.bos, self.eos, self.adds_bos = self.pieces.index(bos), self.pieces.index(eos), adds_bos
        self.controls = dict.fromkeys(self.pieces, Control())
        self._word = re.compile(r" ?\w+|\n+|.", re.DOTALL)
        self._token = re.compile("|".join([*map(re.escape, self.pieces), self._word.pattern]), re.S)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        found = (self._token if special else self._word).findall(text)
        self.pieces += [piece for piece in dict.fromkeys(found) if piece not in self.pieces]
        return [self.pieces.index(piece) for piece in found]

    def piece(self, token: int, special: bool = False) -> bytes:
        assert special
        return self.pieces[token].encode()

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(self.pieces[token] for token in tokens)


CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Thinks in the last turn only; drops the thoughts of earlier ones; opens a thought to answer.
THINKING = """
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and loop.last %}
            {{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + content + '<|im_end|>\n' }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{% endif %}
"""

TEMPLATES: dict[str, tuple[str, ToyVocab, str]] = {  # source, vocabulary, boundary token
    "ChatML": (CHATML, ToyVocab("<|endoftext|>", "<|im_end|>", "<|im_start|>"), "\n"),
    "Llama 3": (
        LLAMA_3,
        ToyVocab("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
                 adds_bos=True),
        "\n\n",
    ),
    "Mistral": (MISTRAL, ToyVocab("<s>", "</s>", "[INST]", "[/INST]", adds_bos=True), "[/INST]"),
    "Gemma": (
        GEMMA, ToyVocab("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", adds_bos=True), "\n"
    ),
    "thinking": (
        THINKING,
        ToyVocab("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>"),
        "\n",
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", TEMPLATES)


def template(name: str) -> ChatTemplate:
    source, vocab, _ = TEMPLATES[name]
    return ChatTemplate(source, cast(Vocab, vocab), name)


def chat(*turns: str) -> list[Message]:
    """A conversation of user and assistant in turns, the user first."""
    return [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)
    ]


def spans(name: str, prompt: Prompt) -> list[tuple[str, str]]:
    """The (boundary token, rest) of each span, as text."""
    vocab = TEMPLATES[name][1]
    return [
        (vocab.text(prompt.tokens[begin : begin + 1]), vocab.text(prompt.tokens[begin + 1 : end]))
        for begin, end in prompt.responses
    ]


def leading(name: str) -> str:
    """Mistral's template puts a space between boundary and content; it joins the first word."""
    return " " if name == "Mistral" else ""


@EVERY
@pytest.mark.parametrize(
    "replies",
    [
        ["Rain is water."],
        ["Hello!", "It is 4.\n\nBecause two and two are four."],
        ["Hello!", "Hello!", "Hello!"],
        ["user", "assistant", "model"],
        ["Why is it so?", "Name three."],  # what the user says as well
        ["x", "{{ messages }}", "{% if %}"],
        ["[/INST] no", "[INST] </s"],
        ["ünï ☔️ 雨", "line\nline\nline"],
    ],
)
def test_the_span_of_each_assistant_turn_is_its_boundary_token_and_its_content(
    name: str, replies: list[str]
) -> None:
    questions = ["Why is it so?", "Name three.", "And then?", "More."]
    turns = [text for pair in zip(questions, replies, strict=False) for text in pair]
    prompt = template(name).prompt(chat(*turns, questions[len(replies)]))
    boundary = TEMPLATES[name][2]
    assert spans(name, prompt) == [(boundary, leading(name) + reply) for reply in replies]


@EVERY
def test_spans_are_in_order_and_never_overlap(name: str) -> None:
    prompt = template(name).prompt(chat("a", "b", "a", "b", "a", "", "a", "b", "a"))
    assert len(prompt.responses) == 4
    for (_, end), (begin, _) in pairwise(prompt.responses):
        assert end <= begin
    assert all(begin < end <= len(prompt.tokens) for begin, end in prompt.responses)


@pytest.mark.parametrize("name", ["Llama 3", "Mistral", "Gemma"])
def test_what_a_template_trims_is_not_in_the_span(name: str) -> None:
    prompt = template(name).prompt(chat("Hi", "  Hello there. \n", "More"))
    assert spans(name, prompt) == [(TEMPLATES[name][2], leading(name) + "Hello there.")]


def test_white_space_that_a_template_keeps_is_in_the_span() -> None:
    prompt = template("ChatML").prompt(chat("Hi", " Hello there. \n", "More"))
    assert spans("ChatML", prompt) == [("\n", " Hello there. \n")]


def test_thoughts_that_a_template_drops_are_not_looked_for() -> None:
    reply = "<think>\nThey greet me.\n</think>\n\nHello."
    prompt = template("thinking").prompt(chat("Hi", reply, "More", "All right.", "More"))
    assert spans("thinking", prompt) == [("\n", "Hello."), ("\n", "All right.")]


def test_a_reply_that_begins_like_a_thought_is_whole() -> None:
    prompt = template("thinking").prompt(chat("Hi", "<b>Hello</b>", "More"))
    assert spans("thinking", prompt) == [("\n", "<b>Hello</b>")]


def test_an_empty_reply_spans_its_boundary_token_alone() -> None:
    prompt = template("ChatML").prompt(chat("Hi", "", "More"))
    assert spans("ChatML", prompt) == [("\n", "")]


def test_a_chat_that_ends_with_the_assistant_has_that_turn_s_span_too() -> None:
    prompt = template("ChatML").prompt(chat("Hi", "Hello."))
    assert spans("ChatML", prompt) == [("\n", "Hello.")]
    assert TEMPLATES["ChatML"][1].text(prompt.tokens).endswith("<|im_start|>assistant\n")


def test_other_roles_have_no_span() -> None:
    messages = [
        {"role": "system", "content": "Be brief."}, *chat("Hi"), {"role": "tool", "content": "4"}
    ]  # fmt: skip
    prompt = template("ChatML").prompt(messages)
    assert prompt.responses == ()
    assert "<tool_response>\n4\n" in TEMPLATES["ChatML"][1].text(prompt.tokens)


@EVERY
def test_bos_is_there_once_or_not_at_all(name: str) -> None:
    _, vocab, _ = TEMPLATES[name]
    prompt = template(name).prompt(chat("Hi", "Hello", "More"))
    assert prompt.tokens.count(vocab.bos) == vocab.adds_bos
    assert prompt.has_bos == vocab.adds_bos


def test_bos_is_added_where_the_template_leaves_it_to_the_tokeniser() -> None:
    vocab = ToyVocab("<s>", "<|im_end|>", "<|im_start|>", adds_bos=True)
    chatty = ChatTemplate(CHATML, cast(Vocab, vocab), "it")
    prompt = chatty.prompt(chat("Hi", "Hello", "More"))
    assert prompt.has_bos
    assert vocab.text(prompt.tokens).startswith("<s><|im_start|>user\nHi")
    ((begin, end),) = prompt.responses
    assert vocab.text(prompt.tokens[begin:end]) == "\nHello"


def test_the_real_model_s_template_gives_the_same_spans(model: Model) -> None:
    chatty = ChatTemplate.of(model)
    replies = ["Rain is water that falls.", "It is 4.\n\nTwo and two."]
    prompt = chatty.prompt(chat("What is rain?", replies[0], "2 + 2?", replies[1], "Thanks."))
    said = [model.vocab.text(list(prompt.tokens[a:b])) for a, b in prompt.responses]
    assert said == ["\n" + reply for reply in replies]
    assert prompt.has_bos  # its BOS is <|im_start|>
    assert prompt.tokens[:2] != (model.vocab.bos, model.vocab.bos)


# What a template or a caller gets wrong


@pytest.mark.parametrize(
    ("name", "messages", "reason"),
    [
        ("Mistral", chat("Hi", "Hello")[1:], "Roles must alternate"),
        ("strict", chat("Hi"), "no users here"),
    ],
)
def test_what_a_template_refuses_is_refused_with_its_reason(
    name: str, messages: list[Message], reason: str
) -> None:
    strict = CHATML + "{{ raise_exception('no users here') }}"
    chatty = ChatTemplate(strict, cast(Vocab, ToyVocab("<s>", "</s>")), name)
    with pytest.raises(RequestError, match=f"of {name} refuses .*{reason}.*; change their order"):
        (chatty if name == "strict" else template(name)).prompt(messages)


@pytest.mark.parametrize("source", [None, ""])
def test_a_model_without_a_template_says_so_when_it_is_asked_to_chat(source: str | None) -> None:
    chatless = ChatTemplate(source, cast(Vocab, ToyVocab("<s>", "</s>")), "base-model")
    with pytest.raises(ModelError, match="base-model has no chat template, so it cannot chat;"):
        chatless.prompt(chat("Hi"))


@pytest.mark.parametrize(
    "source", ["{% for m in messages %}", "{{ 1 +", "{% nonsense %}", "{{ x | no_such_filter }}",
               "{{" + "(" * 10_000 + "1" + ")" * 10_000 + "}}"]
)  # fmt: skip
def test_a_broken_template_is_one_sentence(source: str) -> None:
    broken = ChatTemplate(source, cast(Vocab, ToyVocab("<s>", "</s>")), "it")
    with pytest.raises(ModelError, match=r"\Athe chat template of it is broken \(.*choose another"):
        broken.prompt(chat("Hi"))


HOSTILE = {
    "an attribute of a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a class by a filter": "{{ (messages | attr('__class__')).__mro__ }}",
    "a class by a format string": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "globals of a function": "{{ raise_exception.__globals__['__builtins__'] }}",
    "globals of a macro": "{% macro f() %}{% endmacro %}{{ f._environment.globals.x }}",
    "a change of the messages": "{{ messages.append(messages[0]) }}",
    "a macro without an end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "two macros without an end": (
        "{% macro f(g) %}{{ g(f) }}{% endmacro %}{{ f(f) }}"
    ),
    "a recursive loop without an end": (
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}"
    ),
    "a huge range": "{% for i in range(10 ** 12) %}x{% endfor %}",
    "a range in a range": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "a loop over text in a loop": (
        "{% set t = 'x' * 90000 %}{% for i in t %}{% for j in t %}{% endfor %}{% endfor %}"
    ),
    "macros that call twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a huge power": "{{ 9 ** (9 ** 9) }}",
    "a huge text": "{{ 'x' * 10 ** 11 }}",
    "a huge list": "{{ [0] * 10 ** 11 }}",
    "a wide format": "{{ '%*d' % (10 ** 11, 1) }}",
    "a wide field": "{{ '{:99999999999}'.format(1) }}",
    "a wide column": "{{ 'x'.ljust(10 ** 11) }}",
    "a wide centre": "{{ 'x' | center(10 ** 11) }}",
    "a deep indent": "{{ 'x' | indent(10 ** 11, first=true) }}",
    "a recursive loop over a range": (
        "{% for i in range(99) recursive %}{{ loop(range(99999)) if loop.depth < 3 }}{% endfor %}"
    ),
    "division by zero": "{{ 1 / 0 }}",
    "a missing message": "{{ messages[7].content }}",
    "a wrong type": "{{ messages + 1 }}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_template_ends_in_one_sentence(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_MAX_STEPS", 20_000)  # a tenth, as some of them take them all
    hostile = ChatTemplate(HOSTILE[kind], cast(Vocab, ToyVocab("<s>", "</s>")), "it")
    with pytest.raises((RequestError, ModelError), match=r"\Athe chat template of it ") as caught:
        hostile.prompt(chat("Hi"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# Messages


def assistant(content: object) -> list[Message]:
    return [cast(Message, {"role": "assistant", "content": content})]


REFUSED: dict[str, tuple[list[Message], str]] = {
    "none at all": ([], "list of messages is empty; send at least one"),
    "an unknown role": ([{"role": "asistant", "content": "x"}], "message 0 .*did you mean `assis"),
    "a strange role": ([{"role": "?", "content": "x"}], r"role '\?'\. Roles are system, user, "),
    "no role": ([cast(Message, {"content": "x"})], "message 0 has the role None"),
    "no content": ([*chat("Hi"), cast(Message, {"role": "user"})], "message 1 has NoneType as con"),
    "parts": (assistant([{"type": "text", "text": "x"}]), "message 0 has list as content; send te"),
    "bytes": (assistant(b"x"), "message 0 has bytes as content"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("check", [check_messages, "prompt"])
def test_what_is_no_chat_is_refused(
    kind: str, check: Callable[[Sequence[Message]], None] | str
) -> None:
    messages, reason = REFUSED[kind]
    do = partial(template("ChatML").prompt, messages) if isinstance(check, str) else partial(
        check, messages
    )
    with pytest.raises(RequestError, match=reason):
        do()


# What else a template is told


def test_variables_reach_the_template_and_the_generation_prompt_can_be_left_out() -> None:
    source = CHATML + "{{ 'think: ' + mood if mood }}"
    chatty = ChatTemplate(source, cast(Vocab, ToyVocab("<s>", "</s>")), "it")
    text = chatty.render(chat("Hi"), variables={"mood": "glad"})
    assert text.endswith("<|im_start|>assistant\nthink: glad")
    assert chatty.render(chat("Hi"), add_generation_prompt=False).endswith("Hi<|im_end|>\n")


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "eos_token"])
def test_a_variable_that_the_chat_sets_itself_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=f"variable '{name}' is set by the chat itself; leave"):
        template("ChatML").render(chat("Hi"), variables={name: "x"})
