"""Files that nobody wrote: each becomes a preset or one sentence, never a traceback."""

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from steerplug.errors import PresetError
from steerplug.interchange.prompts.reading import read_sorted
from steerplug.library.save import to_yaml
from steerplug.preset import Preset
from tests.interchange.prompts.card_files import DATA, as_json, base64_of, charx, png, v2, v3
from tests.interchange.prompts.test_templates import DOTPROMPT, MODELFILE

PROMPTFOO = json.dumps({
    "prompts": ["Be {{how}}.\nBrief."],
    "defaultTest": {"vars": {"how": "kind"}, "assert": [{"type": "contains", "value": "a"}]},
    "tests": [{"assert": [{"type": "is-json"}, {"type": "word-count", "value": {"max": 3}}]}],
}).encode()  # fmt: skip
SEEDS = [
    (png(("chara", base64_of(v2()))), "a.png"),
    (png(("ccv3", base64_of(v3())), packed=True, international=True), "a.png"),
    (charx(("card.json", as_json(v3()))), "a.charx"),
    (as_json(v2()), "a.json"),
    (MODELFILE.encode(), "Modelfile"),
    (DOTPROMPT.encode(), "a.prompt"),
    (b"system: Be $how.\nprompt: $input\ndefaults: {how: kind}\noptions: {a: 1}\n", "a.yaml"),
    (PROMPTFOO, "a.json"),
    (PROMPTFOO, "a.yaml"),
]
_BYTES = st.binary(max_size=4) | st.sampled_from(
    [b"{{", b"}}", b"{%", b'"""', b"---\n", b"$", b"\0", b"\xff", b'"', b"\n", b"- ", b": "]
)
_CHANGE = st.tuples(st.floats(0, 1), st.integers(0, 8), _BYTES)
_KEY = st.text(max_size=9)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEY, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def check_sentence(text: str) -> None:
    assert "\n" not in text
    assert len(text) < 700


def become(content: bytes, name: str) -> None:
    """Read a file as `steerplug new` does."""
    try:
        sorting = read_sorted(content, name)
        preset = sorting.preset("mine", "auto")
    except PresetError as error:
        check_sentence(str(error))
        return
    assert Preset.from_yaml(to_yaml(preset).encode()).digest == preset.digest
    told = [word for part in [*sorting.taught, *sorting.stays] for word in part]
    json.dumps(told, ensure_ascii=False).encode()  # no half character reaches a screen
    assert all(word and "\n" not in word for word in told)


@settings(max_examples=200, deadline=None)
@given(seed=st.sampled_from(SEEDS), changes=st.lists(_CHANGE, max_size=4))
def test_files_with_a_few_bytes_changed(
    seed: tuple[bytes, str], changes: list[tuple[float, int, bytes]]
) -> None:
    content, name = seed
    for place, n_lost, new in changes:
        at = int(place * len(content))
        content = content[:at] + new + content[at + n_lost :]
    become(content, name)


@settings(max_examples=80, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(sorted(DATA)), _JSON, max_size=4), spec=st.booleans())
@example(fields={"name": "\ud800", "description": "x"}, spec=False)
@example(fields={"\n\ud800": 1}, spec=True)
@example(fields={"character_book": {"entries": 7}, "tags": {"a": 1}}, spec=True)
def test_cards_whose_fields_are_anything(fields: dict[str, Any], spec: bool) -> None:
    card = v2(**fields) if spec else {"name": "A", "description": "b", **fields}
    become(json.dumps(card).encode(), "a.json")


@settings(max_examples=80, deadline=None)
@given(
    data=st.dictionaries(
        st.sampled_from(
            ["prompts", "tests", "defaultTest", "assert", "system", "prompt", "defaults", "options"]
        ),
        _JSON, max_size=5,
    ),
    asserts=_JSON, name=st.sampled_from(["a.json", "a.yaml"]),
)  # fmt: skip
def test_configurations_whose_values_are_anything(
    data: dict[str, Any], asserts: object, name: str
) -> None:
    become(json.dumps(data).encode(), name)
    test = {"assert": [{"type": "contains", "value": asserts}, asserts], "vars": asserts}
    become(json.dumps({"prompts": "Be.", "tests": [test], "defaultTest": test}).encode(), name)


@settings(max_examples=80, deadline=None)
@given(text=st.text(alphabet="{}%#/!-$ \n\"'a:", max_size=80), name=st.sampled_from(
    ["a.prompt", "Modelfile", "a.yaml", "a.txt"]))  # fmt: skip
def test_texts_of_signs(text: str, name: str) -> None:
    become(text.encode(), name)


def test_time_grows_no_faster_than_the_text() -> None:
    """Each of these takes hours where a search starts again at every sign."""
    for piece in ("{{", "{{!--", "{% if ", "{#", "{{#a", "$", "{{/a}}", "<char", '"""\n', "---\n"):
        text = "Be brief.\n" + piece * (200_000 // len(piece))
        for name in ("a.prompt", "Modelfile", "a.txt"):
            become(text.encode(), name)
        become(json.dumps({"prompts": text}).encode(), "a.json")
        become(as_json(v2(description=piece * (60_000 // len(piece)))), "a.json")
        become(as_json(v2(mes_example=piece * (500_000 // len(piece)))), "a.json")
