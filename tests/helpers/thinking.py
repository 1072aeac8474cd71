"""Chat templates in the style of models that think, and a model that writes what a test says.

Each template keeps what its family does with thoughts: how it shows those of earlier turns, whether
it opens or closes one where the assistant answers, and what switches that.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from steerplug.chat.template import ChatTemplate
from steerplug.engine.model import Model
from steerplug.engine.sampler import Sampler

_LAST = """\
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}"""
_CALLS = """\
{%- for call in m.tool_calls or [] %}
{{- ('' if loop.first else '\\n') + '<tool_call>\\n{"name": "' + call.function.name }}
{{- '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}"""
_CHATML = (
    _LAST
    + """\
{%- for m in messages %}
{%- set kept = m.role == 'assistant' and loop.index0 > ns.last and m.reasoning_content %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if kept %}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}
{{- m.content }}"""
    + _CALLS
    + """{{- '<|im_end|>\\n' }}{% endfor %}"""
)

QWEN3 = (
    _CHATML
    + """\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}{% endif %}"""
)
"""The model opens its thought; earlier ones are dropped but in a turn of tools."""

QWEN35 = (
    _CHATML
    + """\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{{- '<think>\\n\\n</think>\\n\\n' if enable_thinking is false else '<think>\\n' }}{% endif %}"""
)
"""The prompt opens the thought."""

R1 = """\
{{- bos_token }}{% for m in messages %}
{%- if m.role == 'assistant' %}
{{- '<|im_start|>' + m.content.split('</think>')[-1] + '<|im_end|>' }}
{%- else %}{{- '<|im_start|>user\\n' + m.content }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|><think>\\n' }}{% endif %}"""
"""No thought is shown, all are opened, and nothing switches that."""

GPT_OSS = """\
{{- '<|im_start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- if m.thinking and (m.tool_calls or (loop.last and not add_generation_prompt)) %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{%- for call in m.tool_calls or [] %}
{{- '<|start|>assistant to=functions.' + call.function.name + '<|channel|>commentary json' }}
{{- '<|message|>' + (call.function.arguments | tojson) + '<|call|>' }}
{%- else %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{% endfor %}
{%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif %}"""
"""Channels, each with its frame."""

GLM = (
    _LAST
    + """\
{%- for m in messages %}{{- '<|' + m.role + '|>\\n' }}
{%- if m.role == 'assistant' %}
{{- '<think>' + (m.reasoning_content or '' if loop.index0 > ns.last else '') + '</think>\\n' }}
{%- endif %}{{- m.content }}"""
    + _CALLS
    + """\
{%- if m.role == 'user' and enable_thinking is false %}{{- '/nothink' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}
{{- '\\n<think></think>' if enable_thinking is false }}{% endif %}"""
)
"""Every turn has a thought, if an empty one."""

GEMMA = (
    _LAST
    + """\
{{- bos_token }}{% if enable_thinking %}{{- '<|turn>system\\n<|think|>\\n<turn|>\\n' }}{% endif %}
{%- for m in messages %}
{{- '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}
{%- if m.reasoning and m.tool_calls and loop.index0 > ns.last %}
{{- '<|channel>thought\\n' + m.reasoning + '\\n<channel|>' }}{% endif %}
"""
    + _CALLS
    + """\
{{- m.content + '<turn|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|turn>model\\n' }}
{%- if not enable_thinking %}{{- '<|channel>thought\\n<channel|>' }}{% endif %}{% endif %}"""
)
"""Thinks only if asked to, and shows thoughts in turns that call tools."""

GRANITE = """\
{{- '<|im_start|>system\\nYou help.' }}
{%- if thinking %}{{- ' Put thoughts in <think></think> and words in <response></response>.' }}
{%- endif %}{{- '<|im_end|>\\n' }}
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""
"""Asks for thoughts in words."""

MAGISTRAL = """\
{{- bos_token }}{% for m in messages %}
{%- if m.role == 'user' %}{{- '[INST]' + m.content + '[/INST]' }}
{%- elif m.content is string %}{{- m.content + eos_token }}
{%- else %}{% for part in m.content %}
{{- '[THINK]' + part.thinking + '[/THINK]' if part.type == 'thinking' else part.text }}
{%- endfor %}{{- eos_token }}{% endif %}{% endfor %}"""
"""Thoughts are parts of the content."""

TEMPLATES = {
    "Qwen3": QWEN3, "Qwen3.5": QWEN35, "DeepSeek R1": R1, "gpt-oss": GPT_OSS, "GLM 4.5": GLM,
    "Gemma 4": GEMMA, "Granite 3.3": GRANITE, "Magistral": MAGISTRAL,
}  # fmt: skip

Script = Callable[[str], None]


def template(name: str, model: Model) -> ChatTemplate:
    """The template of a family, in the vocabulary of a model that has none of its tokens."""
    return ChatTemplate(TEMPLATES[name], model.vocab, name)


def scripted(model: Model, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Let a model write a text, as far as nothing is forced, and then what it likes."""
    left: list[int] = []
    draw = Sampler.draw

    def drawn(self: Any, context: Any, row: int) -> int:
        if left and np.isfinite(context.logits(row)[left[0]]):
            return left.pop(0)
        return draw(self, context, row)

    monkeypatch.setattr(Sampler, "draw", drawn)

    def write(text: str) -> None:
        left[:] = model.vocab.tokenize(text, special=True)

    return write
