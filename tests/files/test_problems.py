"""What is wrong with a stranger's values is said in one place, for whatever they should be."""

import pytest

from steerplug.errors import PackError
from steerplug.files.problems import place_of
from steerplug.files.yaml_file import Place
from steerplug.packs.lock import Lock
from steerplug.packs.manifest import read_head, read_manifest, read_model

HASH = "ab" * 32


def test_a_key_that_a_pack_has_not_is_not_measured_by_a_preset() -> None:
    with pytest.raises(PackError) as caught:
        read_head(b"schema: steerplug/pack-v1\nnmae: sea\n", "sea: pack.yaml")
    assert str(caught.value) == (
        "sea: pack.yaml, line 2: `nmae` is not a key that a pack.yaml has; did you mean `name`? "
        "(and 1 more problem); a pack's author refreshes it with `steerplug pack`."
    )


def test_a_damaged_hash_is_shown_and_its_author_told_the_cure() -> None:
    text = f"schema: steerplug/pack-lock-v1\nfiles:\n  pack.yaml: {HASH[:-1]}g\n"
    with pytest.raises(PackError, match=r"line 3: `files.pack.yaml` is 'abab.*refreshes it with"):
        read_manifest(text.encode(), "pack.lock")


def test_a_lock_of_ones_own_is_no_packs_authors_business() -> None:
    with pytest.raises(PackError, match="add the packs again") as caught:
        read_model(Lock, b"packs: []\n", "steerplug.lock", "a steerplug.lock")
    assert "author" not in str(caught.value)


@pytest.mark.parametrize(
    ("loc", "kind", "data", "place"),
    [
        (("stop", "list[str]", 1), "string_type", {"stop": ["a", 2]}, ("stop", 1)),
        (("stop", "str"), "string_type", {"stop": ["a", 2]}, ("stop",)),
        (("a", "Tool", "name"), "missing", {"a": {}}, ("a", "name")),
        (("a", "Tool", "name"), "extra_forbidden", {"a": {"name": 1}}, ("a", "name")),
        ((), "dict_type", [], ()),
    ],
)
def test_only_what_was_written_is_named(
    loc: Place, kind: str, data: object, place: Place
) -> None:
    assert place_of(loc, kind, data) == place
