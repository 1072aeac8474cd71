"""The front matter of a pack's README, as the model hub's own client reads it."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from steerplug.errors import PackError
from steerplug.packs.make import make_pack
from tests.helpers.packs import HEAD, TEXT, presets, put


def packed(folder: Path, head: str = HEAD, readme: str = "") -> tuple[dict[str, Any], str]:
    """Make a pack; return what the hub reads of it, and its README."""
    files = {"pack.yaml": head.encode(), **({"README.md": readme.encode()} if readme else {})}
    make_pack(put(folder, files))
    text = (folder / "README.md").read_text()
    return ModelCard(text).data.to_dict(), text


@pytest.fixture
def sea(tmp_path: Path) -> Path:
    folder = presets(tmp_path / "sea", "ahoy")
    tagged = TEXT.format(name="calm") + "tags: [style, llama]\n"
    (folder / "calm.yaml").write_text(tagged)
    return folder


def test_the_hub_reads_what_a_pack_is(sea: Path) -> None:
    said, text = packed(sea, HEAD + "base_model: [Qwen/Qwen3-0.6B-GGUF, a/b]\n")
    assert said == {
        "library_name": "steerplug", "license": "mit", "base_model_relation": "adapter",
        "base_model": ["Qwen/Qwen3-0.6B-GGUF", "a/b"],
        "tags": ["steerplug", "activation-steering", "llama.cpp", "style", "llama"],
    }  # fmt: skip
    assert text.startswith("---\n# written by `steerplug pack`")
    assert "\n---\n<!-- written by `steerplug pack`" in text


def test_without_a_model_nothing_is_said_of_its_relation(sea: Path) -> None:
    said, _ = packed(sea)
    assert {"base_model", "base_model_relation"}.isdisjoint(said)


def test_a_licence_that_the_hub_does_not_know_keeps_its_name(sea: Path) -> None:
    said, _ = packed(sea, HEAD.replace("MIT", "Sea Licence 1"))
    assert (said["license"], said["license_name"]) == ("other", "Sea Licence 1")
    said, _ = packed(sea, HEAD.replace("license: MIT\n", ""))
    assert "license" not in said


OWN = "---\n# mine\ntags: [mine]\nlanguage: fr\n---\n# Mine\n\n---\n\nrule\n"


def test_what_the_author_says_stays_and_wins(sea: Path) -> None:
    said, text = packed(sea, readme=OWN)
    assert (said["tags"], said["language"], said["license"]) == (["mine"], "fr", "mit")
    assert text.startswith("---\n# mine\ntags: [mine]\nlanguage: fr\n# written by")
    assert "# Mine\n\n---\n\nrule\n" in text
    make_pack(sea)
    assert (sea / "README.md").read_text() == text
    changed, again = packed(sea, HEAD.replace("MIT", "Apache-2.0"), text)
    assert changed["license"] == "apache-2.0"
    assert again.count("written by") == text.count("written by") == 2


@pytest.mark.parametrize(
    ("readme", "said"),
    [
        ("---\na: b\n", "begins with `---` that no line ends"),
        ("---\n- a\n---\n", "must hold `key: value` lines"),
        ("---\na: [\n---\n", "not valid YAML"),
        ("---\na: *b\n---\n", "line 2: anchors and aliases"),
    ],
)
def test_front_matter_that_is_none_is_refused(sea: Path, readme: str, said: str) -> None:
    with pytest.raises(PackError) as caught:
        packed(sea, readme=readme)
    assert said in str(caught.value)
    assert "README.md" in str(caught.value)
    assert not (sea / "pack.lock").exists()


@pytest.mark.parametrize("model", ["qwen", "../up", "a/b/c", "a /b", "7"])
def test_a_base_model_is_a_name_on_the_hub(sea: Path, model: str) -> None:
    with pytest.raises(PackError, match="base_model"):
        packed(sea, HEAD + f"base_model: ['{model}']\n")


@pytest.mark.parametrize(
    "readme", ["---\n---\n# Mine\n", "# Mine\n", "---\r\nlanguage: fr\r\n---\r\n"]
)
def test_any_readme_gets_one_head(sea: Path, readme: str) -> None:
    said, text = packed(sea, readme=readme)
    assert said["library_name"] == "steerplug"
    make_pack(sea)
    assert (sea / "README.md").read_text() == text
