"""How templates think: found in what they render, switched, and given thoughts back."""

from dataclasses import replace
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from steerplug.chat.template import ChatTemplate, Message
from steerplug.chat.thoughts.form import Thoughts, switched
from steerplug.chat.tool import ToolCall
from steerplug.engine.model import Model
from steerplug.engine.thought_marks import ThoughtMarks
from steerplug.errors import RequestError
from tests.helpers.families import FAMILIES
from tests.helpers.families import template as family
from tests.helpers.thinking import TEMPLATES, template

THINK = ThoughtMarks("<think>\n", "\n</think>\n\n")
ON, OFF = {"enable_thinking": True}, {"enable_thinking": False}
FOUND = {
    "Qwen3": Thoughts(THINK, "fields", ON, OFF, closes=True),
    "Qwen3.5": Thoughts(THINK, "fields", ON, OFF, opens=True, closes=True),
    "DeepSeek R1": Thoughts(THINK, opens=True),
    "gpt-oss": Thoughts(
        ThoughtMarks(
            "<|channel|>analysis<|message|>", "<|end|>",
            "<|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>",
            "<|end|>",
        ),
        "fields",
    ),
    "GLM 4.5": Thoughts(ThoughtMarks("\n<think>", "</think>\n"), "fields", ON, OFF, closes=True),
    "Gemma 4": Thoughts(
        ThoughtMarks("<|channel>thought\n", "\n<channel|>"), "fields", ON, OFF, closes=True
    ),
    "Granite 3.3": Thoughts(
        replace(THINK, lead="<response>", head="<response>", tail="</response>"),
        "none", {"thinking": True}, {"thinking": False},
    ),
    "Magistral": Thoughts(ThoughtMarks("[THINK]", "[/THINK]"), "parts"),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", TEMPLATES)
USER: Message = {"role": "user", "content": "Why?"}
CALL = ToolCall("a1b2c3d4e", "now", "{}")


@EVERY
def test_marks_and_switches_are_found_in_what_a_template_renders(name: str, model: Model) -> None:
    assert template(name, model).thoughts == FOUND[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_models_that_do_not_think_have_no_marks(name: str, model: Model) -> None:
    assert family(name, model).thoughts is None


def test_a_template_that_says_nothing_leaves_it_to_the_tokens(model: Model) -> None:
    class Thinks:
        def __getattr__(self, name: str) -> Any:
            return getattr(model.vocab, name)

        def tokenize(self, text: str, *, special: bool = False) -> list[int]:
            marks = {"<think>": [7], "</think>": [8]}
            return marks.get(text) or model.vocab.tokenize(text, special=special)

    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    thoughts = ChatTemplate(source, Thinks(), "x").thoughts  # type: ignore[arg-type]
    assert thoughts == Thoughts(THINK)
    assert switched(thoughts, False, "x", False, None) == {}


END = {  # of a chat as it is, thinking, and not; whether a thought is expected behind each
    "Qwen3": (("\n", True), ("\n", True), ("</think>\n\n", False)),
    "Qwen3.5": (("<think>\n", False), ("<think>\n", False), ("</think>\n\n", False)),
    "GLM 4.5": (("t|>", True), ("t|>", True), ("<think></think>", False)),
    "Gemma 4": (("<channel|>", False), ("model\n", True), ("<channel|>", False)),
    "Granite 3.3": (("\n", False), ("\n", True), ("\n", False)),
}  # fmt: skip


@pytest.mark.parametrize("name", END)
def test_thinking_is_switched_by_the_template_s_own_variables(name: str, model: Model) -> None:
    it = template(name, model)
    for think, (end, expected) in zip((None, True, False), END[name], strict=True):
        prompt = it.prompt([USER], variables=it.switched(think, None))
        assert model.vocab.text(list(prompt.tokens), special=True).endswith(end)
        assert prompt.thoughts is not None
        assert prompt.thoughts.expected is expected


AT_ONCE = {
    "Qwen3": "<think>\n\n</think>\n\n", "Qwen3.5": "<think>\n\n</think>\n\n",
    "DeepSeek R1": "<think>\n</think>\n\n", "gpt-oss": "assistant<|channel|>final<|message|>",
    "GLM 4.5": "/nothink<|assistant|>\n<think></think>", "Gemma 4": "thought\n<channel|>",
    "Granite 3.3": "assistant\n", "Magistral": "[/INST][THINK][/THINK]",
}  # fmt: skip


@EVERY
def test_a_chat_may_end_where_the_answer_begins(name: str, model: Model) -> None:
    prompt = template(name, model).prompt([USER], at_once=True)
    assert model.vocab.text(list(prompt.tokens), special=True).endswith(AT_ONCE[name])


@pytest.mark.parametrize(
    ("name", "think", "effort", "sentence"),
    [
        ("DeepSeek R1", False, None, "has no switch for thinking; to have none, set "
         "thinking_budget_tokens to 0."),
        ("DeepSeek R1", None, "none", "has no switch for thinking"),
        ("Qwen3", None, "low", "reads no reasoning_effort; use enable_thinking."),
        ("DeepSeek R1", None, "low", "reads no reasoning_effort; use thinking_budget_tokens."),
        ("Qwen3", False, "high", "enable_thinking is False and reasoning_effort is 'high'; set"),
        ("Qwen3", True, "none", "enable_thinking is True and reasoning_effort is 'none'; set"),
        ("gpt-oss", None, "lots", "reasoning_effort is 'lots'; give one of none, minimal, low"),
    ],
)  # fmt: skip
def test_a_switch_that_is_not_there_is_said(
    name: str, think: bool | None, effort: str | None, sentence: str, model: Model
) -> None:
    with pytest.raises(RequestError, match=sentence):
        template(name, model).switched(think, effort)


def test_a_model_that_does_not_think_is_asked_for_none_in_vain_but_not_for_thoughts(
    model: Model,
) -> None:
    it = ChatTemplate.of(model)
    assert it.switched(False, None) == it.switched(None, "none") == {}
    with pytest.raises(RequestError, match="does not think, as far as its chat template tells"):
        it.switched(True, None)
    with pytest.raises(RequestError, match="reads no reasoning_effort, and it does not think"):
        it.switched(None, "low")


def test_effort_reaches_the_template_that_reads_it(model: Model) -> None:
    variables = template("gpt-oss", model).switched(None, "high")
    assert variables == {"reasoning_effort": "high"}


# In


def said(name: str, chat: list[Message], model: Model) -> str:
    it = template(name, model)
    return model.vocab.text(list(it.prompt(chat).tokens), special=True)


REPLAYED = {
    "Qwen3": "<think>\nHm.\n</think>\n\n", "Qwen3.5": "<think>\nHm.\n</think>\n\n",
    "gpt-oss": "<|channel|>analysis<|message|>Hm.<|end|>", "GLM 4.5": "\n<think>Hm.</think>\n",
    "Gemma 4": "<|channel>thought\nHm.\n<channel|>", "Magistral": "[THINK]Hm.[/THINK]",
}  # fmt: skip


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("name", REPLAYED)
def test_thoughts_of_a_turn_of_tools_are_given_back(name: str, key: str, model: Model) -> None:
    called: Message = {"role": "assistant", "content": "", "tool_calls": (CALL,), key: "Hm."}
    result: Message = {"role": "tool", "content": "7", "tool_call_id": CALL.id, "name": "now"}
    chat = [USER, called, result] if name != "Magistral" else [USER, {**called, "tool_calls": ()}]
    assert REPLAYED[name] in said(name, chat, model)
    later: list[Message] = [*chat, {"role": "assistant", "content": "7."}, USER]
    assert ("Hm." in said(name, later, model)) is (name in ("gpt-oss", "Magistral"))


@pytest.mark.parametrize("name", ["Qwen3", "GLM 4.5", "gpt-oss"])
def test_a_replayed_turn_is_what_transformers_renders(name: str, model: Model) -> None:
    turn = {"role": "assistant", "content": "So.", "reasoning_content": "Hm.", "thinking": "Hm."}
    ((text,), _) = render_jinja_template(
        [[USER, turn]], chat_template=TEMPLATES[name], bos_token="", eos_token="<|im_end|>"
    )
    assert template(name, model).render([USER, turn], add_generation_prompt=False) == text


@pytest.mark.parametrize(
    ("name", "final", "end"),
    [
        ("Qwen3", {"content": "", "reasoning_content": "Hm"}, "assistant\n<think>\nHm"),
        ("Qwen3.5", {"content": "", "reasoning_content": "Hm"}, "assistant\n<think>\nHm"),
        ("gpt-oss", {"content": "", "reasoning_content": "Hm"},
         "<|start|>assistant<|channel|>analysis<|message|>Hm"),
        ("Qwen3", {"content": "So", "reasoning_content": "Hm."}, "<think>\nHm.\n</think>\n\nSo"),
        ("Magistral", {"content": "[THINK]Hm"}, "[/INST][THINK]Hm"),
    ],
)  # fmt: skip
def test_a_reply_goes_on_with_a_thought_or_behind_it(
    name: str, final: dict[str, str], end: str, model: Model
) -> None:
    chat: list[Message] = [USER, {"role": "assistant", **final}]
    prompt = template(name, model).prompt(chat, continue_final_message=True)
    assert model.vocab.text(list(prompt.tokens), special=True).endswith(end)
    assert prompt.begun
