"""Presets: what ships, what a preset may say, and the one sentence that refuses the rest."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from steerplug.errors import PresetError, StrengthError
from steerplug.library.presets import shipped_folder
from steerplug.preset import Preset, check_strength, is_preset_name

SHIPPED = sorted(shipped_folder().glob("*.yaml"))
HEAD = "schema: steerplug/preset-v1\nname: x\n"
CONTRAST = HEAD + "contrast: {positive: Love, negative: Hate}\n"
MEAN = CONTRAST + "fit: {method: mean}\n"
TEACHER = HEAD + "teacher: {system: Be brief.}\n"


def read(text: str) -> Preset:
    return Preset.from_yaml(text.encode(), "x.yaml")


def test_the_presets_that_were_promised_ship() -> None:
    assert {path.stem for path in SHIPPED} >= {
        "love-hate",
        "anger-calm",
        "weddings",
        "no-assistant-fluff",
        "json-output",
        "helpful-persona",
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_preset_loads_and_introduces_itself(path: Path) -> None:
    preset = Preset.from_yaml(path.read_bytes(), path.name)
    assert preset.name == path.stem
    assert preset.license == "MIT"
    assert preset.tags
    assert "Too much looks like" in preset.description
    assert path.read_text().startswith(
        "# yaml-language-server: $schema=../steerplug/preset-v1.schema.json\nschema: "
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_teachers_own_examples_pass_the_presets_checks(path: Path) -> None:
    preset = Preset.from_yaml(path.read_bytes(), path.name)
    if preset.teacher is None:
        return
    assert preset.checks
    for example in preset.teacher.examples:
        assert [c.kind for c in preset.checks if not c.passes(example.assistant)] == []


def test_the_defaults_are_those_of_the_design() -> None:
    preset = read(MEAN)
    assert (preset.version, preset.scope, preset.decoding, preset.checks) == (
        "1.0.0",
        "response",
        None,
        (),
    )
    assert (preset.fit.layers, preset.fit.coefficient, preset.fit.prompts, preset.fit.seed) == (
        "auto",
        "auto",
        "general",
        0,
    )
    assert (preset.strength.default, preset.strength.min, preset.strength.max) == (1.0, 0.0, 2.0)


def test_actadd_steers_the_front_and_takes_one_pair() -> None:
    preset = read(CONTRAST + "fit: {method: actadd}\n")
    assert preset.scope == "front"
    assert preset.contrast is not None
    assert preset.contrast.pairs == (("Love", "Hate"),)


def test_a_negative_text_may_be_empty() -> None:
    preset = read(HEAD + "contrast: {positive: ' weddings', negative: ''}\nfit: {method: actadd}\n")
    assert preset.contrast is not None
    assert preset.contrast.pairs == ((" weddings", ""),)


def test_a_preset_does_not_change() -> None:
    preset = read(MEAN)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(preset, "name", "y")  # noqa: B010


REFUSED = {
    HEAD + "contrast: {positive: a, negative: b}\nfit: {metod: mean}\n": (
        r"x.yaml, line 4: `fit.metod` is not a key that a preset has; did you mean `method`\?$"
    ),
    MEAN + "licence: MIT\n": r"line 5: `licence` is not a key .* did you mean `license`\?$",
    MEAN + "zzz: 1\n": r"`zzz` is not a key that a preset has; the keys here are: schema, name,",
    MEAN + "licence: 1\ntgas: 1\nversoin: 1\n": r"did you mean `license`\? \(and 2 more problems\)",
    CONTRAST: r"x.yaml: method `auto` distils a teacher, but the preset has a contrast; use mean, ",
    "name: x\nfit: {method: mean}\n": r"`schema` is missing; add .*`schema: steerplug/preset-v1`",
    MEAN.replace("preset-v1", "preset-v9"): r"`schema` is 'steerplug/preset-v9', but must be",
    MEAN.replace("name: x", "name: none"): r"line 2: `name` is 'none', but a name is 1 to 64",
    MEAN.replace("name: x", "name: ../x"): r"`name` is '../x', but a name is",
    MEAN.replace(
        "name: x", "name: Pirate"
    ): r"`name` is 'Pirate', but .* write for example `name: p",
    MEAN.replace("name: x", "name: a.gguf"): r"`name` is 'a.gguf', but a name is",
    MEAN.replace("name: x", "name: '1e3'"): r"`name` is '1e3', but a name is .* a number",
    MEAN.replace("name: x", "name: no"): r"`name` is false, as YAML reads no, off or false; put",
    MEAN.replace("name: x", "name: 7"): r"`name` is 7, which YAML does not read as text; put it in",
    MEAN
    + "version: 1.0\n": r"`version` is 1.0, which YAML does not read as text; put it in quotes",
    MEAN + "version: v1\n": r"`version` is 'v1', but .* for example `version: 1.0.0`",
    MEAN + "description: 2024-01-01\n": r"is 2024-01-01, which YAML does not read as text",
    MEAN + "description: yes\n": r"is true, as YAML reads yes, on or true",
    MEAN + "description:\n": r"`description` is empty, but must be a valid string",
    MEAN + 'description: "\\0"\n': r"holds the control character '\\x00'; remove it",
    MEAN + 'description: "\\ud800"\n': r"`description` holds half of a character",
    MEAN + '"\\ud800": 1\n': r"the key '\\ud800' holds half of a character",
    MEAN + f"description: {'x' * 1001}\n": r"is 1001 characters long, and may have 1000; sh",
    MEAN + "tags: style\n": r"`tags` is 'style', but must be a list; write .* `tags: \[style\]`",
    MEAN + f"tags: [{'a, ' * 17}]\n": r"`tags` is \['a'.*\.\.\., but must have at most 16 items",
    MEAN.replace("mean", "men"): r"`fit.method` is 'men', but .*; did you mean `mean`\?$",
    MEAN.replace("{method: mean}", "mean"): r"`fit` is 'mean', but must be a mapping; write",
    MEAN.replace("mean}", "mean, layers: all}"): (
        r"`fit.layers` is 'all', which does not fit; write for example `layers: auto` or "
        r"`layers: \[10, 11, 12\]`"
    ),
    MEAN.replace("mean}", "mean, layers: []}"): r"`fit.layers` is \[\], which does not fit",
    MEAN.replace(
        "mean}", "mean, layers: [1, x]}"
    ): r"`fit.layers.1` is 'x', which YAML reads as te",
    MEAN.replace("mean}", "mean, layers: [1, 1]}"): r"names a block twice: \[1, 1\]",
    MEAN.replace("mean}", "mean, layers: [-1]}"): r"`fit.layers.0` is -1, but must be greater than",
    MEAN.replace("mean}", "mean, layers: [1024]}"): r"must be less than or equal to 1023",
    MEAN.replace("mean}", "mean, coefficient: 1e-3}"): r"is '1e-3', which YAML reads as text",
    MEAN.replace("mean}", "mean, coefficient: .nan}"): r"`fit.coefficient` is nan, which does not",
    MEAN.replace("mean}", "mean, coefficient: 0}"): r"`fit.coefficient` is 0, which does not fit",
    MEAN.replace("mean}", "mean, seed: true}"): r"`fit.seed` is true, but must be a valid integer",
    MEAN.replace("mean}", "mean, prompts: []}"): r"`fit.prompts` is \[\], which does not fit",
    MEAN.replace(
        "mean", "psr"
    ): r"x.yaml: method `psr` distils a teacher, but the preset has a con",
    TEACHER + "fit: {method: actadd}\n": r"`actadd` needs a `contrast` of exactly one pair",
    TEACHER
    + "fit: {method: psr, coefficient: 2}\n": r"`fit` has a coefficient, which method `psr`",
    HEAD + "contrast: {positive: [a, b], negative: [c, d]}\nfit: {method: actadd}\n": (
        r"`actadd` needs a `contrast` of exactly one pair"
    ),
    HEAD + "contrast: {positive: [a, b], negative: c}\nfit: {method: mean}\n": (
        r"line 3: `contrast` has 2 positive and 1 negative texts; give every"
    ),
    HEAD + "contrast: {positive: [a, b], negative: [c, b]}\nfit: {method: mean}\n": (
        r"`contrast` has equal texts in pair 1"
    ),
    HEAD + "contrast: {positive: '', negative: b}\nfit: {method: mean}\n": (
        r"line 3: `contrast.positive` is '', which is blank; write a text or remove the key"
    ),
    HEAD + "contrast: {positive: a, negative: [b, no]}\nfit: {method: mean}\n": (
        r"`contrast.negative.1` is false, as YAML reads no"
    ),
    HEAD + "fit: {method: mean}\n": r"has neither of `teacher` and `contrast`; give it one",
    MEAN + "teacher: {system: a}\n": r"has both of `teacher` and `contrast`; give it one",
    MEAN + "teacher:\n": r"line 5: `teacher` is empty; fill it in or remove the key",
    MEAN + "teacher: {}\n": r"`teacher` says nothing; give it a `system` text or `examples`",
    MEAN + "teacher: {system: ' '}\n": r"`teacher.system` is ' ', which is blank; write a text",
    MEAN + "teacher: {examples: [{user: a}]}\n": r"`teacher.examples.0.assistant` is missing; add",
    MEAN + "scope: front\n": r"scope `front` does not go with method `mean`",
    CONTRAST + "fit: {method: actadd}\nscope: all\n": r"scope `all` does not go with .*`actadd`",
    MEAN
    + "strength: {default: 3}\n": r"`strength` has min 0, default 3 and max 2; they must be in",
    MEAN + "strength: {max: .inf}\n": r"`strength.max` is inf, but must be a finite number",
    MEAN + "strength: {max: 101}\n": r"must be less than or equal to 100",
    MEAN
    + "strength: {min: -2, default: -1, max: 0}\n": r"`strength.max` is 0, but must be greater",
    MEAN + "strength: {default: true}\n": r"`strength.default` is true, but must be a valid number",
    MEAN + "strength: 2\n": r"`strength` is 2, but must be a mapping; write .*default: 1.0",
    MEAN + "decoding: {format: yaml}\n": r"`decoding.format` is 'yaml', but must be 'json'",
    MEAN + "decoding: {}\n":
        "`decoding` says nothing; give it a `format`, `unsteered` or `steered`",
    MEAN + "decoding: {unsteered: [calls]}\n": (
        r"`decoding.unsteered.0` is 'calls', but must be 'thinking' or 'constrained'"
    ),
    MEAN + "decoding: {unsteered: [thinking, thinking]}\n": "names a phase twice",
    MEAN + "decoding: {steered: [constrained]}\n":
        "`decoding.steered.0` is 'constrained', but must be 'thinking'",
    MEAN + "decoding: {steered: [thinking], unsteered: [thinking]}\n":
        "has thinking as `unsteered` and as `steered`; keep one of them",
    MEAN
    + "checks: [{kind: jsn}]\n": r"`checks.0.kind` is 'jsn', which is unknown; did you mean `j",
    MEAN + "checks: [{phrases: [a]}]\n": r"`checks.0.kind` is missing; use one of json, excludes,",
    MEAN + "checks: [json]\n": r"`checks.0` is 'json', but must be a mapping; write for",
    MEAN + "checks: [{kind: json}, {kind: excludes, phrase: [a]}]\n": (
        r"`checks.1.phrase` is not a key that a preset has; did you mean `phrases`\?"
    ),
    MEAN + "checks: [{kind: max_words, count: 1, zzz: 2}]\n": r"the keys here are: kind, count\.$",
    MEAN + "checks: [{kind: max_words, count: 0}]\n": r"`checks.0.count` is 0, but must be greater",
    MEAN + "checks: [{kind: language, code: no}]\n": r"`checks.0.code` is false, but must be 'en'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_wrong_preset_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(PresetError, match=REFUSED[text]) as caught:
        read(text)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith("x.yaml")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", [f.alias or name for name, f in Preset.model_fields.items()])
def test_every_misspelt_key_names_the_good_one(key: str) -> None:
    with pytest.raises(PresetError, match=f"did you mean `{key}`"):
        Preset.from_mapping({key + "x": 1})


def test_a_preset_is_made_from_plain_values_too() -> None:
    data: dict[str, Any] = {"schema": "steerplug/preset-v1", "name": "x", "fit": {"method": "psr"}}
    assert Preset.from_mapping({**data, "teacher": {"system": "Hi."}}).fit.method == "psr"
    with pytest.raises(PresetError, match=r"^the preset: `teacher.examples.0` is 'a', but"):
        Preset.from_mapping({**data, "teacher": {"examples": ("a",)}})


CHANGES_THE_FIT = [
    MEAN.replace("Love", "love"),
    MEAN.replace("mean", "pca"),
    MEAN.replace("mean", "actadd"),
    MEAN.replace("mean}", "mean, layers: [3]}"),
    MEAN.replace("mean}", "mean, coefficient: 2}"),
    MEAN.replace("mean}", "mean, prompts: [Hi]}"),
    MEAN.replace("mean}", "mean, seed: 1}"),
    MEAN + "scope: all\n",
    MEAN + "decoding: {format: json}\n",
    MEAN + "decoding: {unsteered: [thinking]}\n",
    MEAN + "decoding: {steered: [thinking], unsteered: [constrained]}\n",
]
LEAVES_THE_FIT = [
    MEAN.replace("name: x", "name: y"),
    MEAN.replace("positive: Love", "positive: [Love]"),
    MEAN.replace("mean}", "mean, layers: auto, seed: 0}"),
    MEAN + "scope: response\n",
    MEAN + "description: d\nlicense: MIT\ntags: [a]\nversion: 2.0.0\n",
    MEAN + "strength: {default: 0.5}\nchecks: [{kind: json}]\n",
]


@pytest.mark.parametrize("text", CHANGES_THE_FIT)
def test_the_digest_changes_with_what_the_fit_reads(text: str) -> None:
    assert read(text).digest != read(MEAN).digest


@pytest.mark.parametrize("text", LEAVES_THE_FIT)
def test_the_digest_does_not_change_with_what_the_fit_does_not_read(text: str) -> None:
    assert read(text).digest == read(MEAN).digest


def test_the_digest_does_not_depend_on_the_order_of_layers_or_the_kind_of_number() -> None:
    one = MEAN.replace("mean}", "mean, layers: [3, 1], coefficient: 2}")
    other = MEAN.replace("mean}", "mean, coefficient: 2.0, layers: [1, 3]}")
    assert read(one).digest == read(other).digest


def test_the_digest_of_a_preset_is_a_promise_to_the_cache() -> None:
    assert read(MEAN).digest == "1f3b952fb3bb518634bcbe76ece3c6b23ef5a21b9a8127eca4f084bf07696ece"


@pytest.mark.parametrize("strength", [-2.0, -0.5, 0.0, 1.0, 2.0])
def test_a_strength_within_plus_and_minus_max_is_allowed(strength: float) -> None:
    assert is_allowed(read(MEAN), strength)


def is_allowed(preset: Preset, strength: float) -> bool:
    try:
        check_strength(preset, strength)
    except StrengthError:
        return False
    return True


@pytest.mark.parametrize("strength", [2.01, -2.01, float("nan"), float("inf"), float("-inf")])
def test_a_strength_beyond_the_range_is_refused(strength: float) -> None:
    with pytest.raises(StrengthError, match="range of `x`; give a number from -2 to 2"):
        check_strength(read(MEAN), strength)


def test_a_preset_may_reach_further_down_than_up() -> None:
    preset = read(MEAN + "strength: {min: -3, max: 1}\n")
    assert is_allowed(preset, -3.0)
    with pytest.raises(StrengthError, match="from -3 to 1"):
        check_strength(preset, 1.5)


@pytest.mark.parametrize("name", ["a", "0a", "a.b_c-d", "x" * 64, "1-2", "nonesuch"])
def test_a_good_name_is_a_name(name: str) -> None:
    assert is_preset_name(name)


@pytest.mark.parametrize(
    "name", ["", "none", "x" * 65, "-a", ".a", "A", "a b", "a\n", "a/b", "..", "a.yml", "7", "nan"]
)
def test_a_bad_name_is_none(name: str) -> None:
    assert not is_preset_name(name)


def test_reading_a_preset_loads_no_model_library() -> None:
    heavy = "{'llama_cpp', 'torch', 'langchain_core', 'numpy', 'transformers'}"
    code = (
        "import sys, steerplug.preset, steerplug.library.presets, steerplug.preset.mix;"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
