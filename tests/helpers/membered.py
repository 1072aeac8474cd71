"""Chat templates that write the arguments of calls member by member, in the style of families."""

_CHAT = """\
%s{%% if tools %%}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{%% endif %%}
{%%- for message in messages %%}{{- '<|im_start|>' + message.role + '\\n' }}
{{- message.content or '' }}
{%%- for call in message.tool_calls or [] %%}{%% set name = call.function.name %%}
{%%- set first = loop.first %%}{%% set last = loop.last %%}
{{- %s if first else %s }}{{- %s }}
{%%- for key, value in call.function.arguments | items %%}
{%%- set said = value if value is string else value | tojson(ensure_ascii=False) %%}
{{- %s }}{{- '' if loop.last else %s }}
{%%- endfor %%}{{- %s }}{{- %s if last else '' }}
{%%- endfor %%}{{- '<|im_end|>\\n' }}{%% endfor %%}
{%%- if add_generation_prompt %%}{{- '<|im_start|>assistant\\n' }}{%% endif %%}
"""


def membered(
    begin: str, member: str, end: str, *, between: str = "''", first: str = "''",
    further: str = "''", last: str = "''", macro: str = "",
) -> str:  # fmt: skip
    """A template of these expressions, in which a call has a name, and a member key and said."""
    return _CHAT % (macro, first, further, begin, member, between, end, last)


_NESTED = """\
{%- macro nested(value) -%}
{%- if value is string -%}{{ '<|"|>' + value + '<|"|>' }}
{%- elif value is boolean -%}{{ 'true' if value else 'false' }}
{%- elif value is mapping -%}
{{ '{' }}{% for key, part in value | items %}{{ key + ':' }}{{ nested(part) }}
{{- '' if loop.last else ',' }}{% endfor %}{{ '}' }}
{%- elif value is iterable -%}
{{ '[' }}{% for part in value %}{{ nested(part) }}
{{- '' if loop.last else ',' }}{% endfor %}{{ ']' }}
{%- else -%}{{ value | tojson }}{%- endif -%}
{%- endmacro -%}
"""
_PYTHON = """\
{%- macro python(value) -%}
{{- {'true': 'True', 'false': 'False', 'null': 'None'}.get(value | tojson, value | tojson) }}
{%- endmacro -%}
"""
_KINDLY = "('true\">' if value is string else 'false\">') + said"
MEMBERED = {
    "Qwen3-Coder": membered(
        "'<function=' + name + '>\\n'",
        "'<parameter=' + key + '>\\n' + said + '\\n</parameter>\\n'",
        "'</function>\\n</tool_call>'", first="'<tool_call>\\n'", further="'\\n<tool_call>\\n'",
    ),
    "Seed": membered(
        "'<seed:tool_call>\\n<function=' + name + '>\\n'",
        "'<parameter=' + key + '>' + said + '</parameter>\\n'",
        "'</function>\\n</seed:tool_call>'", further="'\\n'",
    ),
    "GLM": membered(
        "'<tool_call>' + name + '\\n'",
        "'<arg_key>' + key + '</arg_key>\\n<arg_value>' + said + '</arg_value>\\n'",
        "'</tool_call>'", further="'\\n'",
    ),
    "GLM 4.7": membered(
        "'<tool_call>' + name",
        "'<arg_key>' + key + '</arg_key><arg_value>' + said + '</arg_value>'", "'</tool_call>'",
    ),
    "MiniMax": membered(
        "'<invoke name=\"' + name + '\">\\n'",
        "'<parameter name=\"' + key + '\">' + said + '</parameter>\\n'", "'</invoke>\\n'",
        first="'<mini:tool_call>\\n'", last="'</mini:tool_call>'",
    ),
    "DeepSeek 3.2": membered(
        "'<|invoke name=\"' + name + '\">\\n'",
        f"'<|parameter name=\"' + key + '\" string=\"' + {_KINDLY} + '</|parameter>\\n'",
        "'</|invoke>\\n'", first="'<|function_calls>\\n'", last="'</|function_calls>'",
    ),
    "marks that are control tokens": membered(
        "'<gh_stars>' + name + '<file_sep>'",
        "'<reponame>' + key + '<empty_output>' + said + '<issue_start>'", "'<issue_closed>'",
    ),
    "LFM": membered(
        "name + '('", "key + '=' + python(value)", "')'", between="', '",
        first="'<|tool_call_start|>['", further="', '", last="']<|tool_call_end|>'", macro=_PYTHON,
    ),
    "Gemma": membered(
        "'<|tool_call>call:' + name + '{'", "key + ':' + nested(value)", "'}<tool_call|>'",
        between="','", macro=_NESTED,
    ),
}  # fmt: skip
