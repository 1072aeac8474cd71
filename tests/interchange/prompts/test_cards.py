"""Character cards in every shape their specifications allow, and in many that they do not."""

import json
import warnings
import zlib
from collections.abc import Callable

import pytest

from steerplug.errors import PresetError
from steerplug.interchange.prompts import cards, reading
from steerplug.interchange.prompts.reading import read_sorted
from steerplug.interchange.prompts.sorting import Sorting
from steerplug.preset import Preset
from tests.interchange.prompts.card_files import (
    DATA,
    as_json,
    base64_of,
    charx,
    chunk,
    png,
    png_of,
    pygmalion,
    v1,
    v2,
    v3,
)

SYSTEM = (
    "You are Anna; answer as Anna would.\n\nAnna sails. the user is her mate.\n\n"
    "Anna's personality: gruff"
)
TURNS = [("Hi", "Ahoy!\nMatey!"), ("Rain?", "Water from above.")]


_TEXT_CHUNK = chunk(b"tEXt", b"chara\0" + base64_of(v2()).encode())


def made(sorting: Sorting) -> Preset:
    return sorting.preset("anna", "auto")


def system(preset: Preset) -> str:
    assert preset.teacher is not None
    return preset.teacher.system or ""


def turns(preset: Preset) -> list[tuple[str, str]]:
    assert preset.teacher is not None
    return [(one.user, one.assistant) for one in preset.teacher.examples]


GOOD: dict[str, tuple[Callable[[], bytes], str]] = {
    "v1 json": (lambda: as_json(v1()), "V1, JSON"),
    "v2 json": (lambda: as_json(v2()), "V2, JSON"),
    "v2 json, bom": (lambda: b"\xef\xbb\xbf" + as_json(v2()), "V2, JSON"),
    "v2 json, crlf": (
        lambda: json.dumps(v2(), indent=1).replace("\n", "\r\n").encode(), "V2, JSON"),
    "v2 json, empty fields": (lambda: as_json(v2(tags=None, extensions=None)), "V2, JSON"),
    "v2 png": (lambda: png(("chara", base64_of(v2()))), "V2, PNG, chunk `chara`"),
    "v1 png": (lambda: png(("chara", base64_of(v1()))), "V1, PNG, chunk `chara`"),
    "v2 png, zTXt": (lambda: png(("chara", base64_of(v2())), packed=True), "V2, PNG"),
    "v2 png, iTXt": (lambda: png(("chara", base64_of(v2())), international=True), "V2, PNG"),
    "v2 png, packed iTXt": (
        lambda: png(("chara", base64_of(v2())), international=True, packed=True), "V2, PNG"),
    "v2 png, wrapped base64": (
        lambda: png(("chara", "\n".join(base64_of(v2())[i : i + 76] for i in range(0, 9000, 76)))),
        "V2, PNG"),
    "v2 png, twice the same": (
        lambda: png(("chara", base64_of(v2())), ("chara", base64_of(v2()))), "V2, PNG"),
    "v2 png, other texts": (
        lambda: png(("Software", "x"), ("chara-ext-asset_:a", "!"), ("chara", base64_of(v2()))),
        "V2, PNG"),
    "v2 png, behind the picture": (
        lambda: png_of(_TEXT_CHUNK), "V2, PNG"),
    "v2 png, another chunk's CRC": (
        lambda: png_of(chunk(b"tEXt", b"a\0b", 1), _TEXT_CHUNK),
        "V2, PNG"),
    "v1 json, a program's own keys": (
        lambda: as_json(v1(avatar="none", chat="c", fav=False, talkativeness="0.5")), "V1, JSON"),
    "v2 json, old fields beside": (
        lambda: as_json({**v1(name="Old", description="Old."), **v2()}), "V2, JSON"),
    "v2 json, nothing where it may be": (
        lambda: as_json(v2(character_book=None, alternate_greetings=[], first_mes="", tags=[],
                           scenario=None, creator_notes=None)), "V2, JSON"),
    "v2 json, blanks for nothing": (
        lambda: as_json(v2(system_prompt=" ", post_history_instructions="\n")), "V2, JSON"),
    "v2 json, a later edition": (lambda: as_json({**v2(), "spec_version": "2.1"}), "V2, JSON"),
    "v2 charx": (lambda: charx(("card.json", as_json(v2()))), "V2, CHARX"),
    "v2 png, animated": (
        lambda: png_of(chunk(b"acTL", b"\0\0\0\1\0\0\0\0"), _TEXT_CHUNK), "V2, PNG"),
    "v2 png, more behind its end": (
        lambda: png(("chara", base64_of(v2()))) + b"PK\3\4", "V2, PNG"),
}  # fmt: skip


@pytest.mark.parametrize("shape", GOOD)
def test_one_character_in_every_shape_is_one_teacher(shape: str) -> None:
    content, known = GOOD[shape]
    sorting = read_sorted(content(), "anna")
    assert sorting.format.startswith(f"a character card ({known}")
    assert system(made(sorting)) == SYSTEM
    assert turns(made(sorting)) == TURNS


@pytest.mark.parametrize(
    ("content", "known"),
    [
        (as_json(pygmalion()), "Pygmalion, JSON"),
        (png(("chara", base64_of(pygmalion()))), "Pygmalion, PNG"),
        (as_json(pygmalion(metadata={"tool": "an editor"})), "Pygmalion, JSON"),
        (as_json({**pygmalion(char_persona="Old."), **v1(personality="")}), "V1, JSON"),
    ],
    ids=["json", "png", "a program's own keys", "v1 beside"],
)
def test_a_card_by_pygmalions_old_names_is_the_same_teacher(content: bytes, known: str) -> None:
    sorting = read_sorted(content, "anna")
    assert sorting.format.startswith(f"a character card ({known}")
    assert system(made(sorting)) == SYSTEM.partition("\n\nAnna's personality")[0]
    assert turns(made(sorting)) == TURNS
    assert [part.what for part in sorting.stays][:2] == ["scenario", "first_mes"]


@pytest.mark.parametrize(
    "content",
    [
        as_json(v3()),
        png(("ccv3", base64_of(v3()))),
        png(("chara", base64_of(v2(name="Older"))), ("ccv3", base64_of(v3()))),
        charx(("assets/icon/images/1.png", b"no picture"), ("card.json", as_json(v3()))),
        charx(("card.json", as_json(v3())), ("assets/card.json", b"{}"), ("../up", b"")),
        as_json(v3(character_book={"name": "b", "entries": [
            {"keys": ["/sh.p/"], "use_regex": True, "content": "@@depth 4\nHer ship is the Gull."},
        ]})),
    ],
    ids=["json", "png", "png with both", "charx", "charx with more", "lore with decorators"],
)
def test_a_v3_card_goes_by_its_nickname(content: bytes) -> None:
    sorting = read_sorted(content, "anna")
    assert "(V3, " in sorting.format
    assert system(made(sorting)) == SYSTEM.replace("Anna", "Annie")


def test_names_and_texts_are_of_any_script() -> None:
    card = v2(name="Жюль 🌊", description="{{char}} любит {{user}}.", mes_example="Жюль 🌊: 雨。")
    said = system(made(read_sorted(as_json(card), "anna")))
    assert said.startswith("You are Жюль 🌊; answer as Жюль 🌊 would.\n\nЖюль 🌊 любит the user.")
    assert said.endswith("雨。")


def test_every_field_is_told_on_one_side() -> None:
    sorting = read_sorted(as_json(v3(assets=[{"type": "icon"}], depth=1)), "anna")
    told = [part.what.split(" (")[0] for part in [*sorting.taught, *sorting.stays]]
    assert {key for key in DATA if DATA[key] and key not in ("name", "creator", "character_version")
            } <= {*told}  # fmt: skip
    assert {"assets", "depth"} <= {*told}
    why = dict(sorting.stays)
    assert "facts of one story" in why["scenario"]
    assert "facts" in why["character_book (1)"]
    assert all(part.why for part in [*sorting.taught, *sorting.stays])
    assert not any(text in system(made(sorting)) for text in ("storm", "Gull", "Ahoy, ", "Be kind"))


def test_the_cards_own_instruction_comes_first_and_the_programs_where_it_says() -> None:
    own = made(read_sorted(as_json(v2(system_prompt="Stay gruff.")), "anna"))
    assert system(own).startswith("Stay gruff.\n\nAnna sails.")
    both = read_sorted(as_json(v2(system_prompt="{{Original}} Stay gruff.")), "anna")
    assert system(made(both)).startswith("You are Anna; answer as Anna would. Stay gruff.\n\nAnna")
    assert any("our words" in part.what for part in both.taught)
    last = made(read_sorted(as_json(v2(post_history_instructions="{{original}}Be brief.")), "anna"))
    assert system(last).endswith("gruff\n\nBe brief.")


def test_placeholders_are_filled_and_what_changes_each_time_stays() -> None:
    text = "<BOT> knows <USER>.\n{{char}} rolls {{roll:6}}.\n{{// hush }}{{Char}} is old.\n{{time}}"
    sorting = read_sorted(as_json(v2(description=text, personality="", mes_example="")), "anna")
    assert system(made(sorting)).split("\n\n")[1] == "Anna knows the user.\nAnna is old."
    assert "lines of description with `roll:6`, `time`" in dict(sorting.stays)


@pytest.mark.parametrize(
    ("dialogue", "pairs", "loose", "n_open"),
    [
        ("{{user}}: a\n{{char}}: b", [("a", "b")], "", 0),
        ("<start>\nYou: a\nAnna: b\n", [("a", "b")], "", 0),
        ("{{char}}: b\n{{char}}: c", [], "b\nc", 0),
        ("You: a\nYou: d\n{{char}}: b\n{{char}}: e\nYou: c", [("a\nd", "b\ne")], "", 1),
        ("Anna laughs: always.", [], "Anna laughs: always.", 0),
        ("{{user}}:\n{{char}}: b", [], "b", 0),
        ("{{user}}: {{time}}\n{{char}}: b", [], "", 0),
        ("<START>\n<START>\n", [], "", 0),
    ],
)  # fmt: skip
def test_example_dialogue(
    dialogue: str, pairs: list[tuple[str, str]], loose: str, n_open: int
) -> None:
    sorting = read_sorted(as_json(v2(mes_example=dialogue)), "anna")
    assert turns(made(sorting)) == pairs
    assert system(made(sorting)).removeprefix(SYSTEM).removeprefix(
        "\n\nExamples of how Anna speaks:\n\n") == loose  # fmt: skip
    assert [what for what, _ in sorting.stays if "unanswered" in what] == (
        [f"unanswered lines of mes_example ({n_open})"] if n_open else []
    )


@pytest.mark.parametrize("script", ["<script>alert(1)</script>", "< IFRAME src=x>", "javascript:x"])
def test_scripts_in_fields_are_texts_and_told(script: str) -> None:
    sorting = read_sorted(as_json(v2(description=f"Gruff. {script}")), "anna")
    assert "never run" in dict(sorting.taught)["description"]
    assert script in system(made(sorting))


BIG = b"x" * (cards.MAX_CARD + 10)
BOMB = zlib.compress(b"A" * 2 * 10**7)
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "no card": (lambda: png(), "picture without a character card"),
    "cut off": (lambda: png(("chara", base64_of(v2())))[:200], "is cut off"),
    "signature alone": (lambda: png()[:8], "is cut off"),
    "endless length": (lambda: png()[:8] + b"\xff\xff\xff\xfftEXt", "is cut off"),
    "wrong crc": (
        lambda: png_of(chunk(b"tEXt", b"chara\0", 7)), "CRC is wrong"),
    "broken base64": (lambda: png(("chara", base64_of(v2())[:-3])), "is not base64"),
    "no base64": (lambda: png(("chara", json.dumps(v2()))), "is not base64"),
    "different twice": (
        lambda: png(("chara", base64_of(v2())), ("chara", "e30=")), "two different `chara`"),
    "bomb in zTXt": (
        lambda: png_of(chunk(b"zTXt", b"chara\0\0" + BOMB)), "more than 16 MB"),
    "bomb in iTXt": (
        lambda: png_of(chunk(b"iTXt", b"ccv3\0\1\0\0\0" + BOMB)), "16 MB"),
    "torn zTXt": (
        lambda: png_of(chunk(b"zTXt", b"chara\0\0" + zlib.compress(b"abc")[:9])), "end is missing"),
    "no zlib": (lambda: png_of(chunk(b"zTXt", b"chara\0\0zzzz")), "cannot be decompressed"),
    "unknown method": (lambda: png_of(chunk(b"zTXt", b"chara\0\5zz")), "PNG does not know"),
    "empty zTXt": (lambda: png_of(chunk(b"zTXt", b"chara\0")), "PNG does not know"),
    "many chunks": (lambda: png_of(chunk(b"teXt", b"") * 70_000), "more than 65536 chunks"),
    "latin-1 card": (lambda: png(("chara", "6Q==")), "its card is not UTF-8 text (byte 0)"),
    "a list": (lambda: png(("chara", base64_of([1]))), "no character card V1, V2, V3 or Pyg"),
    "torn json": (lambda: png(("chara", "eyJhIg==")), "not valid JSON"),
    "deep json": (lambda: b'{"spec": "chara_card_v2", "data": ' + b"[" * 10**6, "nests too deep"),
    "deep in a zip": (
        lambda: charx(("card.json", b'{"a":' * 10**5)), "nests too deep"),
    "key twice": (lambda: b'{"name": "a", "name": "b"}', "the key 'name' is there twice"),
    "long number": (lambda: b'{"name": ' + b"1" * 9000 + b"}", "is no good JSON"),
    "no data": (lambda: as_json({"spec": "chara_card_v2"}), "without its `data`"),
    "v9": (lambda: as_json({"spec": "chara_card_v9", "data": {}}), "`chara_card_v9`" ),
    "nothing but lore and greetings": (
        lambda: as_json(v2(description="", personality=" ", mes_example="")),
        "without an instruction that a preset could replace (it has scenario, character_book (1)"),
    "utf-16": (lambda: json.dumps(v2()).encode("utf-16"), "is not UTF-8 text"),
    "jpeg with a zip behind": (
        lambda: b"\xff\xd8\xff\xe0" + charx(("card.json", as_json(v3()))), "is a JPEG"),
    "no name": (lambda: as_json(v2(name="  ")), "without a `name`"),
    "long name": (lambda: as_json(v2(name="A" * 10**6)), "characters long, and may have 200;"),
    "name is a list": (lambda: as_json(v2(name=["a"])), "`name` is list"),
    "number": (lambda: as_json(v2(description=7)), "`description` is int"),
    "long text": (lambda: as_json(v2(description="x" * 65_000)), "65000 characters long"),
    "text beyond a preset": (lambda: as_json(v2(description="x" * 40_000)), "may have 32000"),
    "control": (lambda: as_json(v2(description="a\x1b[2J")), "control character '\\x1b'"),
    "nul": (lambda: as_json(v2(description="a\0b")), "control character '\\x00'"),
    "surrogate": (lambda: b'{"name": "\\ud800", "description": "{{char}}"}', "holds half of a"),
    "expansion": (
        lambda: as_json(v2(name="A" * 199, description="{{char}}" * 8000)), "once its variables"),
    "many turns": (
        lambda: as_json(v2(mes_example="{{user}}: a\n{{char}}: b\n" * 65)), "at most 64 items"),
    "jpeg": (lambda: b"\xff\xd8\xff\xe0" + b"x" * 99, "is a JPEG"),
    "webp": (lambda: b"RIFF1234WEBP", "is a WebP"),
    "spec": (lambda: as_json({"name": "A", "description": "x", "spec": [2]}),
             "by the specification `[2]`"),
    "lorebook": (lambda: as_json({"spec": "lorebook_v3", "data": {}}), "is a lorebook"),
    "lorebook of SillyTavern": (lambda: as_json({"entries": {"0": {}}}), "is a lorebook"),
    "zip without": (lambda: charx(("cards/card.json", as_json(v2()))), "without card.json"),
    "empty zip": (lambda: charx(), "without card.json"),
    "torn zip": (lambda: charx(("card.json", as_json(v2())))[:-30], "damaged zip"),
    "zip bomb": (lambda: charx(("card.json", b" " * (9 * 2**20))), "more than 8 MB"),
    "many members": (lambda: charx(*((str(i), b"") for i in range(5001))), "more than 5000 files"),
    "large": (lambda: png() + b"\0" * reading.MAX_FILE, "larger than 64 MB"),
    "large text": (lambda: BIG, "larger than 8 MB of text"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_card_is_refused_in_one_sentence(what: str) -> None:
    content, said = BAD[what]
    with pytest.raises(PresetError) as caught:
        made(read_sorted(content(), "anna.png"))
    sentence = str(caught.value)
    assert said in sentence
    assert sentence.startswith("anna.png")
    assert "\n" not in sentence
    assert len(sentence) < 400
    assert sentence.endswith(".")


def test_a_zip_with_two_cards_or_a_locked_one_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, about the second
        twice = charx(("card.json", as_json(v2())), ("card.json", as_json(v1())))
    with pytest.raises(PresetError, match=r"holds card\.json 2 times"):
        read_sorted(twice, "a.charx")
    locked = bytearray(charx(("card.json", as_json(v2()))))
    for header, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        locked[locked.index(header) + at] |= 1
    with pytest.raises(PresetError, match=r"card\.json is encrypted"):
        read_sorted(bytes(locked), "a.charx")
    broken = bytearray(charx(("card.json", as_json(v2()))))
    broken[60] ^= 255
    with pytest.raises(PresetError, match="damaged zip"):
        read_sorted(bytes(broken), "a.charx")
