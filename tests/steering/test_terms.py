"""Where steering lies is told in one place: whoever writes, lists or checks it means the same."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerplug.preset import Preset
from steerplug.preset.preset import NAME
from steerplug.steering import value
from steerplug.steering.terms import PLACE, PRESET_NAME, Scope, is_place, place, places

NAMES = st.from_regex(PRESET_NAME, fullmatch=True)
MODELS = st.text(min_size=1, max_size=80)
KEYS = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(NAMES, MODELS, KEYS)
def test_every_place_is_one_that_a_pack_may_hold(preset: str, model: str, key: str) -> None:
    path = place(preset, model, key)
    assert PLACE.fullmatch(path)
    assert is_place(path, preset, model)


def test_a_place_is_of_its_preset_and_model_alone() -> None:
    path = place("old.sea", "llama-576x30-ab12cd", "0123456789abcdef")
    assert path == "llama-576x30-ab1/old_sea-0123456789abcdef.gguf"
    assert not is_place(path, "sea", "llama-576x30-ab12cd")
    assert not is_place(path, "old.sea", "llama-576x31-ab12cd")


def test_what_is_kept_of_a_preset_is_listed_for_every_model(tmp_path: Path) -> None:
    kept = [tmp_path / place("old.sea", model, "ab" * 32) for model in ("llama-1", "qwen2-1")]
    for path in [*kept, tmp_path / place("old", "llama-1", "ab" * 32)]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert places("old.sea", tmp_path) == kept


def test_presets_and_files_know_the_same_scopes_and_names() -> None:
    assert get_args(Preset.model_fields["scope"].annotation) == get_args(value.Scope)
    assert value.Scope is Scope
    assert re.fullmatch(NAME, "old.sea-2")


@pytest.mark.parametrize("name", ["NOTHING", "Delta", "Mix", "Steering"])
def test_values_are_there_by_the_name_of_their_room(name: str) -> None:
    from steerplug import steering

    assert getattr(steering, name) is getattr(value, name)


def test_an_unknown_value_is_an_attribute_error() -> None:
    from steerplug import steering

    with pytest.raises(AttributeError, match="has no attribute 'Dleta'"):
        _ = steering.Dleta


def test_a_listing_reads_what_files_say_without_numpy() -> None:
    code = (
        "import sys; from steerplug.steering.header import kept_files;"
        "from steerplug.library.presets import shipped_folder;"
        "print(len(list(kept_files('pirate', [shipped_folder() / 'compiled']))));"
        "print({'numpy', 'gguf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["1", "set()"]
