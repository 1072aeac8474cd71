"""Tools for tests, and chat templates in the style of the families that call them.

Each template shows the tools first, then the turns; assistants call in the family's own way.
"""

from steerplug.chat.calls.form import BARE, FUNCTION, ID, LISTED, NUMBER, TAGGED, Form
from steerplug.chat.template import ChatTemplate
from steerplug.chat.tool import Tool, ToolCall
from steerplug.engine.model import Model

WEATHER = Tool(
    "get_weather",
    "The weather in a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
        "required": ["city"],
    },
)
NOW = Tool("now", "The time.", {"type": "object", "properties": {}})
BOTH = (WEATHER, NOW)
OSLO = ToolCall("a1b2c3d4e", "get_weather", '{"city": "Oslo", "days": 2}')
CLOCK = ToolCall("f5g6h7i8j", "now", "{}")

QWEN = """\
{%- if tools %}{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
{{- 'Functions, within <tools></tools>:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{% endfor %}
{{- '\\n</tools>\\nCall with <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call>' }}
{{- '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{{- '<|im_end|>\\n' }}
{%- elif message.role != 'system' or not tools %}
{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{%- if not loop.first or message.content %}{{- '\\n' }}{% endif %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA = """\
{%- if tools %}{{- '<|im_start|>system\\nReply {"name": function, "parameters": dictionary}.' }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{% endfor %}{{- '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{%- if message.tool_calls %}
{%- if message.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|im_start|>assistant\\n{"name": "' + call.name + '", "parameters": ' }}
{{- (call.arguments | tojson) + '}<|im_end|>\\n' }}
{%- else %}
{%- set role = 'ipython' if message.role == 'tool' else message.role %}
{{- '<|im_start|>' + role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
MISTRAL = """\
{%- if tools %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '[INST]' + message.content + '[/INST]' }}
{%- elif message.tool_calls %}{{- '[TOOL_CALLS][' }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{- raise_exception('ids have 9 letters') }}{% endif %}
{{- '{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + ', "id": "' + call.id + '"}' }}
{%- if not loop.last %}{{- ', ' }}{% endif %}{% endfor %}
{{- ']' + eos_token }}
{%- elif message.role == 'tool' %}{{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}
{%- elif message.role == 'assistant' %}{{- message.content + eos_token }}
{%- else %}{{- raise_exception('Only user, assistant and tool are known') }}
{%- endif %}{% endfor %}
"""
MINISTRAL = """\
{%- if tools %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{- '[INST]' + message.content + '[/INST]' }}
{%- elif message.role == 'tool' %}{{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}
{%- elif message.role == 'assistant' %}{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{%- if call.id | length != 9 %}{{- raise_exception('ids have 9 letters') }}{% endif %}
{{- '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id }}
{{- '[ARGS]' + (call.function.arguments | tojson) }}
{%- endfor %}{{- eos_token }}
{%- else %}{{- raise_exception('Only user, assistant and tool are known') }}
{%- endif %}{% endfor %}
"""
KIMI = """\
{%- if tools %}{{- '<|im_start|>tools\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- if message.tool_calls %}{{- '<|calls_begin|>' }}{% for call in message.tool_calls %}
{{- '<|call_begin|>functions.' + call.function.name + ':' + (loop.index0 | string) }}
{{- '<|arguments|>' + (call.function.arguments | tojson) + '<|call_end|>' }}
{%- endfor %}{{- '<|calls_end|>' }}{% endif %}{{- '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
FUNCTIONARY = """\
{%- if tools %}{{- '<|im_start|>system\\nUse <function=NAME>{...}</function> with these:' }}
{%- for tool in tools %}{{- '\\n' + (tool.function | tojson) }}{% endfor %}{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<function=' + call.function.name + '>' + (call.function.arguments | tojson) + '</function>' }}
{%- endfor %}{{- '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
PLAIN = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMED = Form("[TOOL_CALLS]", "", f"[CALL_ID]{ID}[ARGS]", "", again="[TOOL_CALLS]")
COUNTED = Form(
    "<|calls_begin|>",
    "<|call_begin|>functions.",
    f":{NUMBER}<|arguments|>",
    "<|call_end|>",
    again="<|call_begin|>functions.",
    end="<|calls_end|>",
    closing="<|calls_end|>",
)
FAMILIES: dict[str, tuple[str, Form]] = {
    "Qwen": (QWEN, TAGGED),
    "Llama": (LLAMA, BARE),
    "Mistral": (MISTRAL, LISTED),
    "Ministral": (MINISTRAL, NAMED),
    "Kimi": (KIMI, COUNTED),
    "Functionary": (FUNCTIONARY, FUNCTION),
    "plain": (PLAIN, TAGGED),
}


def template(family: str, model: Model) -> ChatTemplate:
    return ChatTemplate(FAMILIES[family][0], model.vocab, family)
