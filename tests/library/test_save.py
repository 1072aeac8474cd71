"""A preset as YAML and back, whatever its texts hold; and its file, which replaces no other."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerplug.errors import PresetError
from steerplug.library.presets import load_preset, shipped_folder
from steerplug.library.save import save_preset, to_yaml
from steerplug.preset import Preset

SHIPPED = sorted(shipped_folder().glob("*.yaml"))
NASTY = [
    "yes", "null", "~", "1.5", "0x1f", "1e3", "2024-01-01", "=", "<<", "- a", "# a", "a # b",
    "a: b", "a:", "'", '"', "'a' \"b\"", "{a: b}", "[a]", "&a", "*a", "!a", "%a", "@a", "`a`", "|",
    ">-", "? a", "---", "...", "--- a", " a", "a ", "\ta", "a\t", "\na", "a\n", "a\n\n", "a\n b",
    "  a\nb", "a \nb", "a\n\n\nb", "a\n# b", "a\n---\nb", "a\r\nb", "\ra", "a\x85b", "a\u2028b",
    "\u2029a", "\ufeffa", "\xa0a", "\x80a", "\ufffea", "🏴‍☠️", "雨 " * 60, "word " * 60 + "end",
    "x" * 300, "a  b " * 40 + "c", "a \tb " * 40 + "c", "word " * 60 + "\n" + "word " * 60, "\\",
    "\\n", "a\\\nb", " " + "word " * 60, "word\n  word " * 30 + "end", "key: 'it''s'", "<|im_end|>",
]  # fmt: skip
PIECES = [*NASTY, " ", "  ", "\n", "\t", "word", "word " * 20, ": ", " #"]


def allowed(text: str) -> str:
    """The text without the control characters that no preset may hold."""
    return "".join(c for c in text if c in "\t\n\r" or (c > "\x1f" and c != "\x7f"))


TEXT = (
    st.one_of(
        st.lists(st.sampled_from(PIECES), min_size=1).map("".join),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200).map(allowed),
    )
    .map(lambda text: text[:900])
    .filter(lambda text: bool(text.strip()))
)


def preset(text: str, name: str = "x", **fields: Any) -> Preset:
    teacher = {"system": text, "examples": [{"user": text, "assistant": text}]}
    return Preset.from_mapping(
        {"schema": "steerplug/preset-v1", "name": name, "teacher": teacher,
         "fit": {"method": "psr", "layers": "auto", "prompts": "general"}, **fields}
    )  # fmt: skip


def again(said: Preset) -> Preset:
    return Preset.from_yaml(to_yaml(said).encode())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_preset_reads_back_equal(path: Path) -> None:
    said = load_preset(path.stem)
    assert again(said) == said
    assert again(said).digest == said.digest
    assert max(map(len, to_yaml(said).splitlines())) <= 100


@pytest.mark.parametrize("text", NASTY)
def test_a_nasty_text_reads_back_exactly(text: str) -> None:
    said = preset(text, description=text, checks=[{"kind": "includes", "phrases": [text[:200]]}])
    assert again(said) == said


@settings(max_examples=150, deadline=None)
@given(
    TEXT,
    TEXT,
    st.floats(-100, 100),
    st.floats(0, 1000, exclude_min=True),
    st.lists(st.integers(0, 1023), min_size=1, unique=True),
)
def test_whatever_a_preset_says_reads_back_equal(
    one: str, other: str, least: float, coefficient: float, layers: list[int]
) -> None:
    fit = {"method": "pca", "layers": layers, "coefficient": coefficient, "prompts": [one, other]}
    said = preset(
        one, fit=fit, description=other, license=other[:100],
        strength={"default": 100, "min": least, "max": 100},
        checks=[{"kind": "starts_with", "phrases": [(one + "x")[-200:]]}],
    )  # fmt: skip
    assert again(said) == said
    contrast = said.model_dump(exclude={"schema_", "teacher"}, exclude_unset=True)
    contrast["contrast"] = {"positive": [one + "+", other + "+"], "negative": [other, ""]}
    told = Preset.from_mapping({"schema": "steerplug/preset-v1", **contrast})
    assert again(told) == told


def test_the_yaml_reads_like_one_written_by_hand() -> None:
    long = "word " * 40 + "end"
    said = preset("Be brief.\n\nBe kind: always.", description=long, tags=["a", "b"])
    assert to_yaml(said) == (
        "schema: steerplug/preset-v1\n"
        "name: x\n"
        "description: >-\n"
        f"  {('word ' * 18).strip()}\n  {('word ' * 18).strip()}\n  {'word ' * 4}end\n"
        "tags: [a, b]\n"
        "teacher:\n"
        "  system: |-\n    Be brief.\n\n    Be kind: always.\n"
        "  examples:\n"
        "    - user: |-\n        Be brief.\n\n        Be kind: always.\n"
        "      assistant: |-\n        Be brief.\n\n        Be kind: always.\n"
        "fit: {method: psr, layers: auto, prompts: general}\n"
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, which is not there yet."""
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path / "data" / "presets"))
    return tmp_path / "data" / "presets"


def test_a_saved_preset_is_found_by_name(folder: Path) -> None:
    said = preset("Sing: ooh #1")
    path = save_preset(said)
    assert path == folder / "x.yaml"
    assert os.listdir(folder) == ["x.yaml"]
    assert load_preset("x") == said
    head = path.read_text().splitlines()[0]
    prefix = "# yaml-language-server: $schema=file://"
    assert head.startswith(prefix)
    assert Path(head.removeprefix(prefix)).name == "preset-v1.schema.json"
    assert Path(head.removeprefix(prefix)).is_file()


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_preset_that_is_there_stays(folder: Path, suffix: str) -> None:
    folder.mkdir(parents=True)
    there = folder / f"x.{suffix}"
    there.write_text("mine")
    with pytest.raises(PresetError, match=rf"there is {there} already; choose another name"):
        save_preset(preset("a"))
    assert there.read_text() == "mine"
    assert os.listdir(folder) == [there.name]


def test_a_preset_that_appears_meanwhile_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerplug.library.save._refuse_taken", lambda *_: None)
    path = save_preset(preset("first"))
    with pytest.raises(PresetError, match="cannot be written"):
        save_preset(preset("second"))
    assert Preset.from_yaml(path.read_bytes()) == preset("first")
    assert os.listdir(folder) == ["x.yaml"]


def test_a_shipped_preset_is_not_hidden(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="`pirate` is a preset that ships with steerplug"):
        save_preset(preset("a", name="pirate"))
    with pytest.raises(PresetError, match="would hide it"):
        save_preset(preset("a", name="pirate"), folder)
    assert not folder.exists()
    assert save_preset(preset("a", name="pirate"), tmp_path).is_file()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "in"):
        with pytest.raises(PresetError, match=r"x\.yaml cannot be written \(.+\); choose a folder"):
            save_preset(preset("a"), folder)


@pytest.mark.parametrize("call", ["link", "fsync"])
@pytest.mark.parametrize("stopped_by", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_preset_that_could_not_be_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, stopped_by: BaseException
) -> None:
    def stop(*_: object) -> None:
        raise stopped_by

    monkeypatch.setattr(f"steerplug.library.save.os.{call}", stop)
    with pytest.raises((PresetError, KeyboardInterrupt)):
        save_preset(preset("a"))
    assert os.listdir(folder) == []


def test_a_preset_too_large_to_be_read_is_not_written(folder: Path) -> None:
    with pytest.raises(PresetError, match="larger than 256 kB; shorten its texts"):
        save_preset(preset("x" * 9000, fit={"method": "mean", "prompts": ["雨" * 3000] * 30}))
    assert not folder.exists()
