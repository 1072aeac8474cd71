"""Reading YAML: what is refused, by which sentence, and that nothing hangs."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerplug.errors import PresetError
from steerplug.files.yaml_file import MAX_BYTES, MAX_DEPTH, YamlFile, read_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

REFUSED = {
    "an anchor": ("a: &x 1\n", r"t, line 1: anchors and aliases .* can expand to gigabytes"),
    "an alias": ("a: 1\nb: *x\n", r"line 2: anchors and aliases"),
    "a billion laughs": (LAUGHS, r"line 1: anchors and aliases"),
    "a Python tag": (
        "a: !!python/object/apply:os.system [ls]",
        r"the tag `.*os.system` is refused",
    ),
    "a plain tag": ("a: !!str 1", r"line 1: the tag `tag:yaml.org,2002:str` is refused"),
    "a local tag": ("a: !include x", r"the tag `!include` is refused"),
    "a tag without a name": ("a: ! x", r"the tag `!` is refused"),
    "a tagged root": ("!!map {a: 1}", r"the tag .* is refused"),
    "a key given twice": ("a: 1\nb: 2\na: 3\n", r"line 3: the key `a` stands here and on line 1"),
    "an inner key given twice": ("a: {b: 1, b: 2}\n", r"line 1: the key `b` stands here and"),
    "a merge key": ("<<: {a: 1}\n", r"the key `<<` is not a word"),
    "a key that YAML reads as false": ("no: 1\n", r"the key `no` is not a word; put it in quotes"),
    "a list as key": ("? [a, b]\n: 1\n", r"the key `\[...\]` is not a word"),
    "deep brackets": ("a: " + "[" * 100_000, r"nested deeper than 20 levels"),
    "deep braces": ("a: " + "{b: " * 50_000, r"nested deeper than 20 levels"),
    "deep dashes": ("a:\n " + "- " * 100_000, r"nested deeper than 20 levels"),
    "deep question marks": ("? " * 100_000, r"nested deeper than 20 levels"),
    "two documents": ("a: 1\n---\nb: 2\n", r"line 2: .*found another document"),
    "a list": ("- a\n- b\n", r"t must hold `key: value` lines"),
    "one word": ("hello", r"t must hold `key: value` lines"),
    "nothing": ("", r"t must hold `key: value` lines"),
    "a comment": ("# only", r"t must hold `key: value` lines"),
    "a colon in a text": ("a: b: c\n", r"line 1: this is not valid YAML .*quote texts"),
    "a tab": ("a:\n\tb: 1\n", r"line 2: this is not valid YAML"),
    "an open bracket": ("a: [1\n", r"not valid YAML"),
    "a control character": ("a: \x07\n", r"not valid YAML"),
    "an endless number": ("a: " + "9" * 5_000, r"is too long a number"),
    "an endless base-60 number": ("a: 1" + ":59" * 50_000, r"is too long a number"),
    "a date that is none": ("a: 2024-13-01\n", r"line 1: YAML cannot read `2024-13-01`"),
    "a lone equals sign": ("a: =\n", r"YAML cannot read `=`"),
}


def read(text: str) -> YamlFile:
    return read_yaml(text.encode(), "t")


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_preset_does_not_need_is_refused_in_one_sentence(case: str) -> None:
    text, sentence = REFUSED[case]
    with pytest.raises(PresetError, match=sentence) as caught:
        read(text)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("content", [b"a: \xff", "a: ü".encode("latin-1"), "a: 1".encode("utf-16")])
def test_what_is_not_utf_8_is_refused(content: bytes) -> None:
    with pytest.raises(PresetError, match=r"t is not UTF-8 text \(byte \d\); save it again"):
        read_yaml(content, "t")


def test_a_file_is_refused_beyond_256_kb_and_read_up_to_there() -> None:
    fits = b"a: " + b"x" * (MAX_BYTES - 3)
    assert len(str(read_yaml(fits, "t").data["a"])) == MAX_BYTES - 3
    with pytest.raises(PresetError, match="t is larger than 256 kB; shorten"):
        read_yaml(fits + b"x", "t")


def test_nesting_is_read_up_to_the_limit() -> None:
    n = MAX_DEPTH - 2  # the root mapping and the innermost scalar are levels too
    assert read("a: " + "[" * n + "1" + "]" * n).data["a"]
    with pytest.raises(PresetError, match="nested deeper"):
        read("a: " + "[" * (n + 1) + "1" + "]" * (n + 1))


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert read_yaml(b"\xef\xbb\xbfa: 1", "t").data == {"a": 1}


def test_values_are_plain_and_every_place_knows_its_line() -> None:
    file = read("a: 1\nb:\n  c: [x, 2.5, null, true]\n  d:\n    - |-\n      two\n      lines\n")
    assert file.data == {"a": 1, "b": {"c": ["x", 2.5, None, True], "d": ["two\nlines"]}}
    assert file.at(("b", "d", 0)) == "t, line 5"
    assert file.at(("b", "c", 1)) == "t, line 3"
    assert file.at(("b", "missing")) == "t, line 2"
    assert file.at(()) == "t"


@given(st.binary(max_size=60) | st.text("[]{}:-?!&*|>'\"#%@,\n \ta0~=<.", max_size=60))
def test_any_bytes_are_read_or_refused_in_one_sentence(content: bytes | str) -> None:
    content = content.encode() if isinstance(content, str) else content
    with suppress(PresetError):
        file = read_yaml(content, "t")
        assert all(isinstance(key, str) for key in file.data)
