"""Character cards: who the character is becomes the teacher, its stories do not.

V1, V2, V3, and Pygmalion's before them, whose fields have other names.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from steerplug.errors import PresetError
from steerplug.files.text import one_line
from steerplug.files.yaml_file import printable
from steerplug.interchange.prompts.sorting import PEOPLE, Part, Sorting
from steerplug.interchange.prompts.variables import HANDLEBARS, Marked, in_braces

MAX_CARD = 8 * 2**20
_NAME = 200
_TEXT = 64_000  # characters of one field; what a preset holds is less
_DIALOGUE = 512_000
_SPECS = {"chara_card_v2": "V2", "chara_card_v3": "V3"}
_PYGMALION = {
    "char_name": "name",
    "char_persona": "description",
    "char_greeting": "first_mes",
    "world_scenario": "scenario",
    "example_dialogue": "mes_example",
}
"""What V1 calls the fields of Pygmalion's cards."""
_OWN_SCRIPT = re.compile(r"<\s*(script|iframe|object|embed)\b|javascript:", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"<(char|bot|user)>", re.IGNORECASE)
_START = re.compile(r"^[ \t]*<START>[ \t]*$", re.IGNORECASE | re.MULTILINE)

_OURS = "our words: "
_WHO = (
    "who the character is and how it speaks; facts in it (names, numbers) are better left a prompt"
)
_FACTS = "facts of one story; say them in the system message of a chat"
_LORE = "facts for when their words come up; steering carries manner, no facts"
_GREETING = "the character's own words; send them as the chat's first reply"
_SETTINGS = "settings of the program that wrote them; scripts in them are not run"
_STAYS = {
    "scenario": _FACTS,
    "character_book": _LORE,
    "first_mes": _GREETING,
    "alternate_greetings": _GREETING,
    "group_only_greetings": _GREETING,
    "creator_notes": PEOPLE,
    "creator_notes_multilingual": PEOPLE,
    "tags": PEOPLE,
    "assets": "pictures and sounds; none is opened",
    "extensions": _SETTINGS,
}
_TAUGHT = (
    "system_prompt",
    "description",
    "personality",
    "mes_example",
    "post_history_instructions",
)
_TITLES = ("name", "nickname", "creator", "character_version", "source", "creation_date",
           "modification_date", "spec", "spec_version", "avatar", "data")  # fmt: skip


def is_card(data: object) -> bool:
    """Say whether plain values are a character card of any version."""
    if not isinstance(data, Mapping):
        return False
    spec = data.get("spec")
    if isinstance(spec, str) and spec.startswith("chara_card"):
        return True
    is_v1 = "name" in data and {"description", "personality", "first_mes", "mes_example"} & {*data}
    is_older = "char_name" in data and len(_PYGMALION.keys() & data.keys()) > 1
    return bool(is_v1 or is_older)


def sort_card(data: Mapping[str, Any], source: str, where: str) -> Sorting:
    """Return a card as a preset on its way.

    Args:
        data: the card's values.
        source: what messages call the file.
        where: what holds it, such as "PNG".

    Raises:
        PresetError: the card is of an unknown version, or a field is of the wrong kind or too long.
    """
    version, fields = _fields(data, source)
    card = _Card(fields, source)
    sorting = Sorting(f"a character card ({version}, {where})", source)
    sorting.description = f"Answers as {printable(card.name)}, a character from a card."
    _instruct(card, sorting)
    _show(card, sorting)
    if not _tells_of_its_own(sorting):
        sorting.messages.clear()
    for key, why in _STAYS.items():
        if fields.get(key):
            sorting.stay(_counted(key, fields[key]), why)
    sorting.leave_unknown(fields, {*_STAYS, *_TAUGHT, *_TITLES})
    return sorting


def _tells_of_its_own(sorting: Sorting) -> bool:
    """Say whether anything but our own words would be taught."""
    return any(not part.what.startswith(_OURS) for part in sorting.taught)


class _Card(NamedTuple):
    """The fields of a card, read as texts."""

    fields: Mapping[str, Any]
    source: str

    def raw(self, key: str, most: int = _TEXT) -> str:
        """Return a field; an absent one is empty."""
        value = self.fields.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise PresetError(
                f"{self.source}: `{key}` is {type(value).__name__}, where a card has a text; "
                "correct the card."
            )
        if len(value) > most:
            raise PresetError(
                f"{self.source}: `{key}` is {len(value)} characters long, and may have {most}; "
                "shorten it, or move facts into a prompt."
            )
        return value.replace("\r\n", "\n")

    @property
    def name(self) -> str:
        """What `{{char}}` means."""
        name = one_line(self.raw("nickname", _NAME) or self.raw("name", _NAME))
        if not name:
            raise PresetError(f"{self.source} is a card without a `name`; give it one.")
        return name

    def text(self, text: str, original: str = "") -> Marked:
        """Return a text with its placeholders filled in."""
        known = {"char": self.name, "bot": self.name, "user": "the user", "original": original}

        def value(name: str) -> str | None:
            word = name.lower()
            return "" if word.startswith(("comment:", "hidden_key:")) else known.get(word)

        plain = _PLACEHOLDER.sub(lambda match: "{{" + match[1].lower() + "}}", text)
        return in_braces(plain, value, self.source, HANDLEBARS)


def _fields(data: Mapping[str, Any], source: str) -> tuple[str, Mapping[str, Any]]:
    spec = data.get("spec")
    if spec is None:
        older = {_PYGMALION[key]: value for key, value in data.items() if key in _PYGMALION}
        others = {key: value for key, value in data.items() if key not in _PYGMALION}
        return ("V1" if "name" in data else "Pygmalion"), {**older, **others}
    if not isinstance(spec, str) or spec not in _SPECS:
        raise PresetError(
            f"{source} is a card by the specification `{printable(str(spec))}`; steerplug reads "
            f"{' and '.join(_SPECS)}, and cards without `spec` as V1 or Pygmalion's."
        )
    fields = data.get("data")
    if not isinstance(fields, Mapping):
        raise PresetError(f"{source} is a card of {spec} without its `data`; save it again.")
    return _SPECS[spec], fields


def _instruct(card: _Card, sorting: Sorting) -> None:
    """Put together the instruction, in the order in which programs say the fields."""
    role = f"You are {card.name}; answer as {card.name} would."
    own = card.raw("system_prompt")
    if not own.strip() or "{{original}}" in own.lower():
        ours = f"{_OURS}{printable(role)}"
        sorting.taught.append(Part(ours, "the card leaves them to its program"))
        if not own.strip():
            sorting.messages.append({"role": "system", "content": role})
    about = {
        "system_prompt": (own, "the instruction of the card"),
        "description": (card.raw("description"), _WHO),
        "personality": (card.raw("personality"), "how the character is"),
        "post_history_instructions": (
            card.raw("post_history_instructions"),
            "an instruction; here it stands before the chat, not behind it",
        ),
    }
    for key, (raw, why) in about.items():
        label = f"{card.name}'s personality: " if key == "personality" and raw.strip() else ""
        text = card.text(label + raw, role if key == "system_prompt" else "")
        sorting.instruct(key, text, why + _script(raw))


def _script(raw: str) -> str:
    found = _OWN_SCRIPT.search(raw)
    return f"; its `{found.group()}` is text here, and never run" if found else ""


def _show(card: _Card, sorting: Sorting) -> None:
    """Sort the example dialogue: answered messages of the user are turns, the rest is a text."""
    raw = card.raw("mes_example", _DIALOGUE)
    if not raw.strip():
        return
    turns, loose, open_ones = spoken(raw, card.name)
    if open_ones:
        sorting.stay(f"unanswered lines of mes_example ({open_ones})", "they show no reply")
    for user, answer in turns:
        said = [("user", card.text(user)), ("assistant", card.text(answer))]
        if any(text.variables for _, text in said):
            sorting.stay("a turn of mes_example with a variable", "its text differs each time")
        else:
            sorting.messages += [{"role": r, "content": text.constant()} for r, text in said]
    if turns:
        sorting.taught.append(Part("mes_example", "example turns" + _script(raw)))
    if loose:
        label = f"Examples of how {card.name} speaks:\n\n"
        text = card.text(label + "\n\n".join(loose))
        sorting.instruct("mes_example without a question", text, "how the character speaks")


def spoken(dialogues: str, name: str) -> tuple[list[tuple[str, str]], list[str], int]:
    """Return what example dialogues say: answered messages, texts, and how many open questions."""
    turns, loose, open_ones = [], [], 0
    for dialogue in _START.split(dialogues):
        pairs, rest, n_open = _pairs(dialogue, name)
        turns += pairs
        loose += rest
        open_ones += n_open
    return turns, loose, open_ones


def _pairs(dialogue: str, name: str) -> tuple[list[tuple[str, str]], list[str], int]:
    """Return the answered messages of a dialogue, texts that answer nothing, and open questions."""
    spoken: list[tuple[str, list[str]]] = []
    for line in dialogue.split("\n"):
        who, text = _speaker(line, name)
        if spoken and who in ("", spoken[-1][0]):
            spoken[-1][1].append(text)
        elif text.strip() or who:
            spoken.append((who, [text]))
    messages = [(who, "\n".join(lines)) for who, lines in spoken]
    pairs, loose, asked = [], [], ""
    for who, text in [(who, text.strip()) for who, text in messages if text.strip()]:
        if who == "char" and asked:
            pairs.append((asked, text))
        elif who != "user":
            loose.append(text)
        asked = text if who == "user" else ""
    n_asked = sum(who == "user" and bool(text.strip()) for who, text in messages)
    return pairs, loose, n_asked - len(pairs)


def _speaker(line: str, name: str) -> tuple[str, str]:
    """Return who speaks a line, `user`, `char` or nobody, and what is said."""
    head, colon, rest = line.partition(":")
    who = head.strip().casefold()
    if colon and who in ("{{user}}", "<user>", "you", "user"):
        return "user", rest.lstrip()
    if colon and who in ("{{char}}", "<bot>", "<char>", name.casefold()):
        return "char", rest.lstrip()
    return "", line


def _counted(key: str, value: object) -> str:
    entries = value.get("entries") if isinstance(value, Mapping) else value
    if not isinstance(entries, list | Mapping) or key in (
        "extensions",
        "creator_notes_multilingual",
    ):
        return key
    return f"{key} ({len(entries)})"
