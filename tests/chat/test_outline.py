"""Where turns stand in a chat: a few renderings and one tokenisation, whatever its length."""

from typing import Any, cast

import pytest

from steerplug.chat.template import ChatTemplate, Message
from steerplug.engine.model import Model
from steerplug.engine.scope import Prompt
from steerplug.engine.vocab import Vocab
from steerplug.session import Session, Settings
from tests.chat.test_template import TEMPLATES, ToyVocab, chat
from tests.helpers.families import BOTH, FAMILIES, MISTRAL, OSLO, QWEN, template

THINKS = """\
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
{%- set parts = m.content.split('</think>') %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and loop.index0 > ns.last %}
{{- '<think>\\n' + (parts[0].split('<think>')[-1].strip() if parts | length > 1 else '') }}
{{- '\\n</think>\\n\\n' }}{% endif %}
{{- (parts[-1].lstrip('\\n') if m.role == 'assistant' else m.content) + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{% endif %}
"""
SYSTEM_LAST = """\
{{- bos_token }}{% for m in messages %}
{%- if m.role == 'user' %}{{- '[INST]' }}
{%- if loop.last and messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
{{- m.content + '[/INST]' }}
{%- elif m.role == 'assistant' %}{{- ' ' + m.content + eos_token }}{% endif %}{% endfor %}
"""


class Counted:
    """A chat template that counts its renderings, and the characters that are tokenised."""

    def __init__(self, source: str, vocab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n_rendered = self.n_tokenised = 0
        self.template = ChatTemplate(source, vocab, "it")
        _ = self.template.thoughts  # looked for once, and not counted
        render, tokenize = self.template.render, vocab.tokenize

        def rendered(*args: Any, **kwargs: Any) -> str:
            self.n_rendered += 1
            return render(*args, **kwargs)

        def tokenised(text: str, **kwargs: Any) -> list[int]:
            self.n_tokenised += len(text)
            return cast("list[int]", tokenize(text, **kwargs))

        monkeypatch.setattr(self.template, "render", rendered)
        monkeypatch.setattr(vocab, "tokenize", tokenised)


def talk(n: int) -> list[Message]:
    """A conversation of n turns of each side."""
    return list(chat(*(f"{'QA'[i % 2]} {i // 2}" for i in range(2 * n)), "And?"))


def shown(vocab: Vocab, prompt: Prompt) -> list[str]:
    """The text of each span, its boundary token left out."""
    return [vocab.text(list(prompt.tokens[a + 1 : b]), special=True) for a, b in prompt.responses]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_long_chat_takes_no_more_renderings_than_a_short_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, vocab, _ = TEMPLATES[name]
    counts = []
    for n in (2, 40):
        with monkeypatch.context() as patch:
            counted = Counted(source, vocab, patch)
            prompt = counted.template.prompt(talk(n))
            assert len(prompt.responses) == n
            assert counted.n_tokenised == len(counted.template.render(talk(n)))
            counts.append(counted.n_rendered)
    assert counts[0] == counts[1] <= 4


@pytest.mark.parametrize("family", FAMILIES)
def test_nor_does_one_with_many_calls(
    family: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calls(n: int) -> list[Message]:
        turns: list[Message] = [
            {"role": "user", "content": "Oslo?"},
            {"role": "assistant", "content": "", "tool_calls": (OSLO,)},
            {"role": "tool", "content": "4 °C", "tool_call_id": OSLO.id, "name": OSLO.name},
            {"role": "assistant", "content": "Cold."},
        ]
        return [*turns * n, {"role": "user", "content": "Thanks."}]

    counted = Counted(FAMILIES[family][0], model.vocab, monkeypatch)
    prompt = counted.template.prompt(calls(30), BOTH)
    assert len(prompt.responses) == 60
    assert counted.n_rendered <= 12
    assert [text.strip() for text in shown(model.vocab, prompt)[1::2]] == ["Cold."] * 30


def test_ids_that_a_template_writes_behind_results_take_no_rendering_each(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = MISTRAL.replace("message.content + '[/T", "message.content + message.name + '[/T")
    turns: list[Message] = [{"role": "user", "content": "Oslo?"}]
    for i in range(30):
        turns += [{"role": "tool", "content": "4", "tool_call_id": "", "name": f"id{'x' * i}"},
                  {"role": "assistant", "content": "Cold."}]  # fmt: skip
    counted = Counted(source, model.vocab, monkeypatch)
    prompt = counted.template.prompt(turns)
    assert counted.n_rendered <= 12
    assert shown(model.vocab, prompt) == ["Cold."] * 30


def test_a_chat_whose_spans_nobody_needs_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source, vocab, _ = TEMPLATES["ChatML"]
    counted = Counted(source, vocab, monkeypatch)
    bare = counted.template.prompt(talk(9), spans=False)
    assert counted.n_rendered == 1
    spanned = counted.template.prompt(talk(9))
    assert (bare.tokens, bare.responses) == (spanned.tokens, ())


def test_an_unsteered_request_needs_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session("smollm2", n_ctx=256, n_threads=1)
    try:
        asked: list[bool] = []
        prompt = session.template.prompt

        def noted(*args: Any, spans: bool, **kwargs: Any) -> Prompt:
            asked.append(spans)
            return prompt(*args, spans=spans, **kwargs)

        monkeypatch.setattr(session.template, "prompt", noted)
        for steering in (None, "none", "0*weddings", "weddings"):
            session.chat(talk(1), steering, Settings(max_tokens=1))
        assert asked == [False, False, False, True]
    finally:
        session.close()


def test_thoughts_that_come_and_go_between_turns_move_no_span(model: Model) -> None:
    """A turn that was thought of keeps its thoughts until the user speaks again."""
    chatty = ChatTemplate(THINKS, model.vocab, "it")
    thought = "<think>\nIt is cold.\n</think>\n\nFour."
    turns = chat("Oslo?", thought, "And Bergen?", thought)
    assert shown(model.vocab, chatty.prompt(turns)) == ["Four.", "It is cold.\n</think>\n\nFour."]
    more = [*turns, *chat("Thanks.")]
    assert shown(model.vocab, chatty.prompt(more)) == ["Four.", "Four."]


def test_a_system_message_that_moves_with_the_chat_moves_no_span(model: Model) -> None:
    chatty = ChatTemplate(SYSTEM_LAST, model.vocab, "it")
    turns = [{"role": "system", "content": "Be brief."}, *chat("Hi", "Hello.", "And?", "Yes.", "?")]
    assert shown(model.vocab, chatty.prompt(turns)) == [" Hello.", " Yes."]


def test_private_characters_in_a_chat_are_text(model: Model) -> None:
    odd = "\ue000\ue001\ue002 \\ue003 0\ue001"
    chatty = template("Qwen", model)
    prompt = chatty.prompt(chat(odd, odd, odd, "<|im_end|>" + odd, "More"))
    assert shown(model.vocab, prompt) == [odd, "<|im_end|>" + odd]


def test_a_toy_of_unknown_characters_has_its_spans_too() -> None:
    """Where tokens do not spell the text, beginnings of it are tokenised instead."""

    class Deaf(ToyVocab):
        def piece(self, token: int, special: bool = False) -> bytes:
            piece = super().piece(token, special)
            return "▅".encode() if "☔" in piece.decode() else piece

    vocab = Deaf("<|endoftext|>", "<|im_end|>", "<|im_start|>")
    prompt = ChatTemplate(TEMPLATES["ChatML"][0], cast(Vocab, vocab), "it").prompt(
        chat("☔?", "It ☔ rains.", "And?", "No.", "So?")
    )
    said = [vocab.text(prompt.tokens[a + 1 : b]) for a, b in prompt.responses]
    assert said == ["It ☔ rains.", "No."]


def test_tools_in_front_move_no_span(model: Model) -> None:
    chatty = ChatTemplate(QWEN, model.vocab, "it")
    assert shown(model.vocab, chatty.prompt(talk(3), BOTH)) == ["A 0", "A 1", "A 2"]
