"""Modelfiles, dotprompts, templates of llm and promptfoo's configurations."""

import json
from typing import Any

import pytest
import yaml
from llm.templates import Template

from steerplug.errors import PresetError
from steerplug.interchange.prompts.reading import read_sorted
from steerplug.interchange.prompts.sorting import Sorting
from steerplug.preset import Preset
from steerplug.preset.checks import Check


def read(text: str, name: str) -> tuple[Sorting, Preset]:
    sorting = read_sorted(text.encode(), name)
    return sorting, sorting.preset("mine", "auto")


def taught(preset: Preset) -> tuple[str | None, list[tuple[str, str]]]:
    assert preset.teacher is not None
    turns = [(one.user, one.assistant) for one in preset.teacher.examples]
    return preset.teacher.system, turns


def whats(parts: list[Any]) -> list[str]:
    return [part.what for part in parts]


def refused(text: str, name: str, said: str) -> None:
    with pytest.raises(PresetError) as caught:
        read(text, name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(name)


# Ollama's Modelfile

MODELFILE = '''\
# A sailor
from llama3.2:1b
PARAMETER temperature 1
PARAMETER stop "<|user|>"
ADAPTER ./lora.gguf
TEMPLATE """{{ .System }}
{{ .Prompt }}"""
System """
You are "Anna".

# no comment
Always."""
MESSAGE user Is rain wet?
MESSAGE assistant """ Aye,
very."""
MESSAGE system "Be brief."
LICENSE MIT
'''


def test_a_modelfile() -> None:
    sorting, preset = read(MODELFILE, "Modelfile")
    system = 'You are "Anna".\n\n# no comment\nAlways.\n\nBe brief.'
    assert taught(preset) == (system, [("Is rain wet?", " Aye,\nvery.")])
    assert preset.license == "MIT"
    assert whats(sorting.taught) == ["SYSTEM", "MESSAGE (3)", "LICENSE"]
    stays = dict(sorting.stays)
    assert "-m" in stays["FROM llama3.2:1b"]
    assert "--lora" in stays["ADAPTER ./lora.gguf"]
    assert 'PARAMETER temperature 1, stop "<|user|>"' in stays
    assert any(what.startswith("TEMPLATE {{ .System }}") for what in stays)


@pytest.mark.parametrize(
    ("lines", "system"),
    [
        ("SYSTEM You are brief.", "You are brief."),
        ("SYSTEM\tYou are\tbrief. ", "You are\tbrief."),
        ('SYSTEM "You are\nbrief."', "You are\nbrief."),
        ('SYSTEM """Say "hi"""" ', 'Say "hi"'),
        ('SYSTEM """a """ b\nc"""', 'a """ b\nc'),
        ("SYSTEM one\nSYSTEM two", "two"),
        ("  SYSTEM indented", "indented"),
        ("SYSTEM {{not}} a variable", "{{not}} a variable"),
    ],
)
def test_a_modelfiles_values(lines: str, system: str) -> None:
    assert taught(read(f"FROM x\n{lines}\n", "m.txt")[1])[0] == system


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "is a Modelfile without an instruction that a preset could replace (it has FROM x)"),
        ('SYSTEM """never', 'line 2: SYSTEM begins with """ that never ends'),
        ("SYTEM be brief", "did you mean `system`?"),
        ("Be brief!", "line 2: `Be` is no command"),
        ("SYSTEM Be\nbrief", 'a text of several lines stands in """.'),
        ("MESSAGE tool hi", "MESSAGE is of `tool`"),
        ("MESSAGE user hi", "ends with a question that has no answer"),
        ("MESSAGE", "MESSAGE is of ``"),
        ('SYSTEM ""', "without an instruction"),
    ],
)
def test_a_bad_modelfile_is_refused(lines: str, said: str) -> None:
    refused(f"FROM x\n{lines}\n", "Modelfile", said)


# dotprompt

DOTPROMPT = """\
---
model: googleai/gemini-2.5-flash
config:
  temperature: 0.4
input:
  default:
    language: French
  schema:
    question: string
output:
  format: json
  schema:
    answer: string
---
{{!-- who {{it}} is --}}
{{role "system"}}
You speak {{language}}.
{{#if formal}}
Be formal.
{{else}}
Be rude.
{{/if}}
Call them {{name}}.
{{{ raw }}}
Be brief.
{{history}}
{{role "user"}}
Is rain wet?
{{role "model"}}
{"answer": "oui"}
{{role "user"}}
{{question}}
"""


def test_a_dotprompt() -> None:
    sorting, preset = read(DOTPROMPT, "sea.prompt")
    system = "You speak French.\nBe brief."
    assert taught(preset) == (system, [("Is rain wet?", '{"answer": "oui"}')])
    assert preset.format == "json"
    assert [check.kind for check in preset.checks] == ["json"]
    assert whats(sorting.taught) == [
        "input.default", "the system message", "its questions and answers", "output"
    ]  # fmt: skip
    lines = "lines of the system message with `#if formal`, `name`, `raw`, `history`"
    assert whats(sorting.stays) == [
        lines, "the last user message", "output.schema", "model", "config"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "system"),
    [
        ("---\nmodel: x\n---\nBe brief.\n\n{{question}}\n", "Be brief."),
        ("---\n---\nBe brief.", "Be brief."),
        ("# c\n---\n# only a comment\n---\nBe brief.", "Be brief."),
        ('{{role "system"}}Be brief.', "Be brief."),
        ("Be {{brief", "Be {{brief"),
        ('{{#each a}}{{role "user"}}{{this}}{{/each}}\nBe brief.', "Be brief."),
        ("Be {{! no }}brief.{{> footer}}\nYes. {{~x~}}\nNo.", "No."),
    ],
)
def test_a_dotprompts_constant_lines(text: str, system: str) -> None:
    assert taught(read(text, "a.prompt")[1])[0] == system


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{question}}", "is a dotprompt without an instruction that a preset could replace"),
        ("---\nmodel: x\nBe brief.", "that no line ends"),
        ("---\nmodel: [\n---\nBe brief.", "line 3: this is not valid YAML"),
        ("---\n- a\n---\nBe brief.", "beginning with `model: ...`"),
        ("---\na: &x 1\n---\nBe brief.", "anchors and aliases"),
        ("", "without an instruction"),
        ('{{role "tool"}}x{{role "user"}}y', "has the role `tool`"),
    ],
)  # fmt: skip
def test_a_bad_dotprompt_is_refused(text: str, said: str) -> None:
    refused(text, "a.prompt", said)


# llm

TEMPLATES: list[dict[str, Any]] = [
    {"system": "You are $who. It costs $$5, or ${price}."},
    {"system": "$$$who$$ $", "defaults": {"who": "Anna"}},
    {"system": "Be brief.", "prompt": "Translate: $input"},
]


@pytest.mark.parametrize("template", TEMPLATES[:1] + TEMPLATES[2:])
def test_a_template_says_what_llm_itself_would_say(template: dict[str, Any]) -> None:
    defaults = {"who": "Anna", "price": 7, "unused": None}
    own = Template.model_validate({"name": "x", **template, "defaults": defaults})
    _, preset = read(yaml.safe_dump({**template, "defaults": defaults}), "x.yaml")
    assert taught(preset)[0] == own.evaluate("")[1]


def test_a_template_of_llm() -> None:
    text = (
        "model: gpt-4o\nsystem: |\n  You are $who.\n  Today is $day.\nprompt: 'Say: $input'\n"
        "defaults: {who: Anna}\noptions: {temperature: 1.8}\nschema_object: {type: object}\n"
        "functions: |\n  import os; os.abort()\nfragments: [/etc/passwd]\n"
    )
    sorting, preset = read(text, "x.yml")
    assert taught(preset) == ("You are Anna.", [])
    assert preset.format == "json"
    stays = dict(sorting.stays)
    assert {"lines of system with `day`", "prompt", "schema_object itself", "model", "options"} <= {
        *stays
    }
    assert "not run" in stays["functions"]
    assert "not read" in stays["fragments"]


def test_the_constant_lines_of_a_prompt_are_an_instruction() -> None:
    sorting, preset = read("prompt: |\n  Summarise in one line.\n\n  $input\n", "x.yaml")
    assert taught(preset)[0] == "Summarise in one line."
    assert whats(sorting.stays) == ["lines of prompt with `input`"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt: 'Say: $input'", "is a template of llm without an instruction"),
        ("system: 7", "`system` is int"),
        ("system: [a]", "`system` is list"),
        ("just: this", "has neither `system` nor `prompt`"),
        ("- a", "must hold `key: value` lines, beginning with `prompts"),
        ("schema: steerplug/preset-v1\nname: a", "is a preset already"),
        ("system: !!python/object:os.system x", "the tag"),
        ("system: $a\ndefaults: {a: " + "b" * 2000 + "}", "without an instruction"),
    ],
)
def test_a_bad_template_is_refused(text: str, said: str) -> None:
    refused(text, "x.yaml", said)


# promptfoo

ASSERTS: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    ({"type": "contains", "value": "sea"}, [{"kind": "includes", "phrases": ["sea"]}]),
    ({"type": "icontains", "value": 42}, [{"kind": "includes", "phrases": ["42"]}]),
    ({"type": "contains-any", "value": ["a", "b"]}, [{"kind": "includes", "phrases": ["a", "b"]}]),
    ({"type": "icontains-any", "value": "a, b"}, [{"kind": "includes", "phrases": ["a", "b"]}]),
    ({"type": "contains-all", "value": ["a", "b"]},
     [{"kind": "includes", "phrases": ["a"]}, {"kind": "includes", "phrases": ["b"]}]),
    ({"type": "not-contains", "value": "An AI"}, [{"kind": "excludes", "phrases": ["An AI"]}]),
    ({"type": "not-icontains-any", "value": "x,y"}, [{"kind": "excludes", "phrases": ["x", "y"]}]),
    ({"type": "contains-any", "value": '"a, b", c, "d"'},
     [{"kind": "includes", "phrases": ["a, b", "c", "d"]}]),
    ({"type": "starts-with", "value": "Dear"}, [{"kind": "starts_with", "phrases": ["Dear"]}]),
    ({"type": "is-json"}, [{"kind": "json"}]),
    ({"type": "is-json", "value": {"type": "object"}}, [{"kind": "json"}]),
    ({"type": "word-count", "value": {"min": 2, "max": 9}},
     [{"kind": "min_words", "count": 2}, {"kind": "max_words", "count": 9}]),
    ({"type": "word-count", "value": {"max": 9}}, [{"kind": "max_words", "count": 9}]),
    ({"type": "regex", "value": "a+"}, []),
    ({"type": "equals", "value": "a"}, []),
    ({"type": "javascript", "value": "process.exit()"}, []),
    ({"type": "llm-rubric", "value": "kind"}, []),
    ({"type": "contains", "value": "{{topic}}"}, []),
    ({"type": "contains", "value": "file://x.txt"}, []),
    ({"type": "contains", "value": "x", "transform": "output.y"}, []),
    ({"type": "contains", "value": "x", "weight": 0}, []),
    ({"type": "contains", "value": "x" * 300}, []),
    ({"type": "contains", "value": None}, []),
    ({"type": "word-count", "value": "many"}, []),
    ({"type": "word-count"}, []),
    ({"type": "not-contains-all", "value": ["a", "b"]}, []),
    ({"type": ["a"]}, []),
    ({}, []),
]  # fmt: skip


@pytest.mark.parametrize(("one", "checks"), ASSERTS, ids=lambda value: str(value)[:40])
def test_an_assert_is_a_check_or_says_why_not(
    one: dict[str, Any], checks: list[dict[str, Any]]
) -> None:
    config = {"prompts": ["Be brief.\n{{q}}"], "defaultTest": {"assert": [one]}}
    sorting, preset = read(json.dumps(config), "promptfooconfig.json")
    assert [plain(check) for check in preset.checks] == checks
    assert taught(preset)[0] == "Be brief."
    told = [what for what in whats(sorting.taught) if what.startswith("assert")]
    assert bool(told) == bool(checks)
    stays = [part for part in sorting.stays if part.what.startswith("assert")]
    assert [bool(part.why) for part in stays] == ([] if checks else [True])


def plain(check: Check) -> dict[str, Any]:
    dumped = check.model_dump()
    return {key: list(v) if isinstance(v, tuple) else v for key, v in dumped.items()}


def test_what_every_test_asserts_is_a_check_and_the_rest_is_about_one_question() -> None:
    ai = {"type": "not-contains", "value": "As an AI"}
    config = {
        "providers": ["openai:x"], "defaultTest": {"vars": {"who": "Anna"}, "assert": [ai]},
        "prompts": [{"label": "a", "raw": '[{"role": "system", "content": "You are {{ who }}.\\n'
                     '{% if x %}\\nNo.\\n{% endif %}{# hush #}\\nBe brief."}, '
                     '{"role": "user", "content": "{{question}}"}]'}],
        "tests": [
            {"vars": {"question": "Rain?"}, "assert": [ai, {"type": "contains", "value": "wet"}]},
            {"vars": {"question": "Sun?"}, "assert": [{"type": "contains", "value": "hot"}, ai]},
        ],
    }  # fmt: skip
    sorting, preset = read(yaml.safe_dump(json.loads(json.dumps(config))), "promptfooconfig.yaml")
    assert taught(preset) == ("You are Anna.\nBe brief.", [])
    assert [plain(check) for check in preset.checks] == [
        {"kind": "excludes", "phrases": ["As an AI"]}
    ]
    stays = dict(sorting.stays)
    assert "one test" in stays["assert contains wet, contains hot"]
    assert {"the last user message", "tests (2)", "providers"} <= {*stays}


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (["a", "b"], "compares 2 prompts"),
        ([], "compares 0 prompts"),
        (["file://../../etc/passwd"], "is kept elsewhere, file://../../etc/passwd"),
        ("prompts/sea.txt", "is kept elsewhere"),
        (["prompt.py:make"], "is kept elsewhere"),
        (["exec:python make.py"], "is kept elsewhere, exec:python make.py"),
        (["langfuse://sea:3"], "is kept elsewhere"),
        (["file://my prompts/sea"], "is kept elsewhere, file://my prompts/sea"),
        (["my prompts/sea.txt"], "is kept elsewhere"),
        ("prompts/*", "is kept elsewhere"),
        (["- role: tool\n  content: x"], "the role `tool`"),
        (["- role: user\n  content: {{q}}"], "put it in quotes"),
        ([7], "its prompt is no text"),
        ({"id": "x.json"}, "is kept elsewhere"),
        (["{{question}}"], "without an instruction"),
        (['[{"role": "user", "content": [1]}]'], "has no text as `content`"),
        (['[{"role": "user"'], "not valid JSON"),
        (['[{"role": "tool", "content": "x"}]'], "the role `tool`"),
    ],
)
def test_bad_prompts_are_refused(prompts: object, said: str) -> None:
    refused(json.dumps({"prompts": prompts}), "promptfooconfig.json", said)


def test_a_chat_may_be_written_in_yaml() -> None:
    prompt = "- role: system\n  content: Be brief.\n- role: user\n  content: '{{q}}'\n"
    sorting, preset = read(yaml.safe_dump({"prompts": [prompt]}), "promptfooconfig.yaml")
    assert taught(preset) == ("Be brief.", [])
    assert whats(sorting.stays) == ["the last user message"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"threshold": 0.5}, "though some of its asserts fail"),
        ({"options": {"transform": "output.x"}}, "that a `transform` changed"),
        ({"options": {"disableDefaultAsserts": True}}, "a test leaves it out"),
    ],
)
@pytest.mark.parametrize("where", ["default", "test"])
def test_what_a_reply_may_lack_is_no_check(said: dict[str, Any], why: str, where: str) -> None:
    one = {"type": "contains", "value": "sea"}
    default = {"assert": [one], **(said if where == "default" else {})}
    tests = [{"vars": {"q": "a"}, **(said if where == "test" else {})}]
    config = {"prompts": "Be brief.", "defaultTest": default, "tests": tests}
    sorting, preset = read(json.dumps(config), "c.json")
    assert preset.checks == ()
    assert why in dict(sorting.stays)["assert contains sea"]


def test_asserts_that_some_test_in_another_file_may_lack_are_no_checks() -> None:
    tests = ["file://more.yaml", {"assert": [{"type": "contains", "value": "sea"}, "be kind"]}]
    sorting, preset = read(json.dumps({"prompts": "Be brief.", "tests": tests}), "c.json")
    assert preset.checks == ()
    assert "assert contains sea, be kind" in whats(sorting.stays)


@pytest.mark.parametrize("value", ["file://tone.txt", "{{other}}", "very {{other}}"])
def test_variables_whose_values_are_elsewhere_stay(value: str) -> None:
    config = {"prompts": "Be {{tone}}.\nYes.", "defaultTest": {"vars": {"tone": value}}}
    sorting, preset = read(json.dumps(config), "c.json")
    assert taught(preset)[0] == "Yes."
    assert whats(sorting.stays) == ["lines of the prompt with `tone`"]


def test_no_more_checks_than_a_preset_has() -> None:
    asserts = [{"type": "contains", "value": f"w{i}"} for i in range(40)]
    config = {"prompts": "Be brief.", "defaultTest": {"assert": asserts}}
    sorting, preset = read(json.dumps(config), "c.json")
    assert len(preset.checks) == 32
    assert sum("at most 32 checks" in part.why for part in sorting.stays) == 8


# What no format knows


@pytest.mark.parametrize(
    ("text", "name", "what"),
    [
        ("---\nmodle: x\n---\nBe brief.", "a.prompt", "modle"),
        ("---\noutput: json\n---\nBe brief.", "a.prompt", "output"),
        ("prompt: Be brief.\nsytem: Be kind.\n5a: 1", "a.yaml", "5a, sytem"),
        ("prompts: Be brief.\nenv: {a: b}", "a.yaml", "env"),
        ("prompts: [{raw: Be brief., suffix: Yes.}]", "a.yaml", "prompts.suffix"),
        ("prompts: Be brief.\ndefaultTest: file://a.yaml", "a.yaml", "defaultTest"),
        ("prompts: Be brief.\ndefaultTest: {options: {suffix: a}}", "a.yaml",
         "defaultTest.options"),
        ("FROM x\nSYSTEM a\nSYSTEM b\nSYSTEM c", "Modelfile", "SYSTEM on line 2, 3"),
    ],
)  # fmt: skip
def test_what_is_not_taught_is_told(text: str, name: str, what: str) -> None:
    assert what in whats(read(text, name)[0].stays)


# And what has no format of its own


@pytest.mark.parametrize(
    ("text", "name", "format"),
    [
        ("Be brief.", "a.txt", "a text"),
        ('[{"role": "system", "content": "Be brief."}]', "a.json", "a text"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],'
         ' "prompts": 1}', "-", "a chat"),
        ("From here on, be brief.", "a.txt", "a text"),
        ("{curly} be brief", "a.txt", "a text"),
    ],
)  # fmt: skip
def test_texts_and_chats_are_read_as_ever(text: str, name: str, format: str) -> None:
    sorting, _ = read(text, name)
    assert sorting.format == format
    assert sorting.taught
