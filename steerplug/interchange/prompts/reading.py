"""Which format a file is in, by what it holds rather than by its name; then it is sorted."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from steerplug.errors import PresetError
from steerplug.files.yaml_file import MAX_BYTES, read_yaml
from steerplug.interchange.prompts import cards, llm_template, promptfoo
from steerplug.interchange.prompts.charx import card_in_charx
from steerplug.interchange.prompts.dotprompt import begins_like_one, sort_dotprompt
from steerplug.interchange.prompts.json_text import decoded, read_json
from steerplug.interchange.prompts.modelfile import sort_modelfile
from steerplug.interchange.prompts.png import SIGNATURE, card_in_png
from steerplug.interchange.prompts.sorting import INSTRUCTION, SAME_TURNS, Part, Sorting
from steerplug.preset.prompt_file import read_prompt

MAX_FILE = 64 * 2**20
_PICTURES = {b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"RIFF": "WebP"}
_FROM = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)*[ \t]*FROM[ \t]+\S+[ \t]*(?:\n|\Z)", re.IGNORECASE)
_YAML = (".yaml", ".yml")
_KNOWN = (
    "a character card (PNG, JSON, CHARX), a Modelfile, a .prompt, a template of llm, a "
    "configuration of promptfoo, a chat in JSON or a text"
)


def read_sorted(content: bytes, source: str) -> Sorting:
    """Return a prompt of any known format, sorted into what a preset replaces and what stays.

    Args:
        content: the file, or at least `MAX_FILE + 1` bytes of it.
        source: what messages call the file; where its content leaves it open, its name tells the
            format.

    Raises:
        PresetError: it is too large, damaged, of no known format, or nothing in it can be replaced.
    """
    if len(content) > MAX_FILE:
        raise PresetError(f"{source} is larger than {MAX_FILE // 2**20} MB; give its card alone.")
    if content.startswith(SIGNATURE):
        card, chunk = card_in_png(content, source, cards.MAX_CARD)
        return _card(card, source, f"PNG, chunk `{chunk}`")
    if content.startswith((b"PK\3\4", b"PK\5\6")):
        return _card(card_in_charx(content, source, cards.MAX_CARD), source, "CHARX")
    for magic, name in _PICTURES.items():
        if content.startswith(magic):
            raise PresetError(
                f"{source} is a {name}, and cards are kept in PNG, JSON or CHARX; get the original."
            )
    if len(content) > cards.MAX_CARD:
        raise PresetError(
            f"{source} is larger than {cards.MAX_CARD // 2**20} MB of text; cut it down to the "
            "instruction and the best examples."
        )
    return _sorted_text(content, source)


def _card(content: bytes, source: str, where: str) -> Sorting:
    card = f"{source}: its card"
    data = read_json(decoded(content, card), card)
    if not cards.is_card(data):
        raise PresetError(f"{card} is no character card V1, V2, V3 or Pygmalion; get the original.")
    return cards.sort_card(data, source, where)


def _sorted_text(content: bytes, source: str) -> Sorting:
    name, text = PurePath(source).name.lower(), decoded(content, source)
    if text.lstrip()[:1] == "{" and (name.endswith(".json") or _is_object(text)):
        data = read_json(text, source)
        if cards.is_card(data):
            return cards.sort_card(data, source, "JSON")
        _refuse_lorebook(data, source)
        if promptfoo.is_config(data) and "messages" not in data:
            return promptfoo.sort_config(data, source)
        return _plain(content, source)
    _check_size(content, source)
    if name.endswith(".prompt") or begins_like_one(text):
        return sort_dotprompt(text, source)
    if name.startswith("modelfile") or name.endswith(".modelfile") or _FROM.match(text):
        return sort_modelfile(text, source)
    if name.endswith(_YAML):
        return _sorted_yaml(content, source)
    return _plain(content, source)


def _is_object(text: str) -> bool:
    return re.match(r'\s*\{\s*["}]', text) is not None


def _sorted_yaml(content: bytes, source: str) -> Sorting:
    data = read_yaml(content, source, "`prompts: [...]` (promptfoo) or `system: ...` (llm)").data
    if promptfoo.is_config(data):
        return promptfoo.sort_config(data, source)
    if str(data.get("schema", "")).startswith("steerplug/"):
        raise PresetError(f"{source} is a preset already; build it by its path, or copy it.")
    if {"system", "prompt", "system_fragments", "fragments"} & {*data}:
        return llm_template.sort_template(data, source)
    raise PresetError(
        f"{source} has neither `system` nor `prompt` nor `prompts`, so it is no prompt that "
        f"steerplug knows; give {_KNOWN}."
    )


def _refuse_lorebook(data: Any, source: str) -> None:
    """Refuse a lorebook, by its specification or, as SillyTavern keeps one, by its entries."""
    spec = str(data.get("spec", "")) if isinstance(data, Mapping) else ""
    if spec.startswith("lorebook") or isinstance(data.get("entries"), Mapping):
        raise PresetError(
            f"{source} is a lorebook, facts that steering cannot carry; leave it a prompt."
        )


def _check_size(content: bytes, source: str) -> None:
    if len(content) > MAX_BYTES:
        raise PresetError(
            f"{source} is larger than {MAX_BYTES // 1024} kB; cut it down to the instruction and "
            "the best examples."
        )


def _plain(content: bytes, source: str) -> Sorting:
    """Return an instruction as text, or a chat in JSON, as `--from-prompt` reads them."""
    messages = read_prompt(content, source)
    roles = {message.get("role") for message in messages}
    sorting = Sorting("a chat" if roles - {"system"} else "a text", source)
    sorting.messages = list(messages)
    if roles & {"system", "developer"}:
        sorting.taught.append(Part("the instruction", INSTRUCTION))
    if roles & {"user", "assistant"}:
        sorting.taught.append(Part("its questions and answers", SAME_TURNS))
    return sorting
