"""A teacher in other programs' formats is read back as the same teacher."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerplug.errors import PresetError, SteerplugError
from steerplug.interchange.prompts.reading import read_sorted
from steerplug.interchange.prompts.writing import IN_OLLAMA, card, lost, modelfile, ollama_name
from steerplug.library.presets import list_presets, load_preset
from steerplug.model_file import ALIASES
from steerplug.preset import Preset

TAUGHT = [
    listing.name for listing in list_presets()
    if (preset := load_preset(listing.name)).teacher and preset.teacher.system
]  # fmt: skip


def test_every_alias_has_a_name_in_ollama() -> None:
    assert set(IN_OLLAMA) == set(ALIASES)


@pytest.mark.parametrize("form", ["modelfile", "card"])
@pytest.mark.parametrize("name", TAUGHT)
def test_presets_that_ship_come_back(name: str, form: str) -> None:
    preset = load_preset(name)
    text = modelfile(preset, "x") if form == "modelfile" else card(preset)
    again = read_sorted(text.encode(), "again").preset(name, "auto")
    assert again.teacher == preset.teacher
    if form == "modelfile":
        assert again.license == preset.license


TEXT = st.text(alphabet="a\"'#\n\t {}:$", min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=150, deadline=None)
@given(system=TEXT, question=TEXT, answer=TEXT)
def test_a_modelfile_holds_any_text_or_is_refused(system: str, question: str, answer: str) -> None:
    teacher = {"system": system, "examples": [{"user": question, "assistant": answer}]}
    preset = Preset.from_mapping({"schema": "steerplug/preset-v1", "name": "x", "teacher": teacher})
    try:
        text = modelfile(preset, "x")
    except PresetError:
        assert any(line.rstrip().endswith('"""') for said in (system, question, answer)
                   for line in said.split("\n"))  # fmt: skip
        return
    again = read_sorted(text.encode(), "Modelfile").preset("x", "auto").teacher
    assert again is not None
    assert (again.system or "").strip("\n") == system.strip("\n")
    assert [(one.user, one.assistant) for one in again.examples] == [(question, answer)]


def test_what_follows_quotes_in_a_text_is_not_taken_for_a_command() -> None:
    teacher = {"system": 'Begin with """\nand say no more.'}
    preset = Preset.from_mapping({"schema": "steerplug/preset-v1", "name": "x", "teacher": teacher})
    with pytest.raises(PresetError, match='`x` has a line that ends in """'):
        modelfile(preset, "x")


def test_a_line_of_a_modelfile_that_holds_nul_is_not_lost() -> None:
    with pytest.raises(PresetError, match=r"^Modelfile holds the control character '\\x00'"):
        read_sorted(b'FROM x\nSYSTEM """Be calm.\nNever say \0no."""\n', "Modelfile")


def test_a_card_has_every_field_that_v2_demands() -> None:
    data = json.loads(card(load_preset("pirate")))["data"]
    texts = {"name", "description", "personality", "scenario", "first_mes", "mes_example",
             "creator_notes", "system_prompt", "post_history_instructions", "creator",
             "character_version"}  # fmt: skip
    assert {key for key, value in data.items() if isinstance(value, str)} == texts
    assert set(data) - texts == {"alternate_greetings", "tags", "extensions"}


@pytest.mark.parametrize(
    "answer", ["Aye.\n<START>\nNay.", "Aye.\nYou: hi", "Aye.\nx: Nay.", "Aye.\n{{user}}: Nay."]
)
def test_turns_that_a_card_reads_as_others_are_refused(answer: str) -> None:
    teacher = {"examples": [{"user": "Is rain wet?", "assistant": answer}]}
    preset = Preset.from_mapping({"schema": "steerplug/preset-v1", "name": "x", "teacher": teacher})
    with pytest.raises(PresetError, match="has a line that a card reads as another turn"):
        card(preset)


def test_what_is_lost_is_said() -> None:
    assert "the strength, the checks and the form of replies stay" in lost(
        load_preset("json-output"), "modelfile"
    )
    with pytest.raises(PresetError, match="made from a contrast"):
        modelfile(load_preset("love-hate"), "x")


def test_what_ollama_calls_a_model(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert ollama_name("hf:org/repo/m-Q4_0.gguf") == "hf.co/org/repo:m-Q4_0.gguf"
    assert ollama_name("smollm2") == "smollm2:135m"
    assert ollama_name(str(tmp_path / "m.gguf")) == str(tmp_path / "m.gguf")
    with pytest.raises(SteerplugError, match="no model"):
        ollama_name("nowhere.gguf")
