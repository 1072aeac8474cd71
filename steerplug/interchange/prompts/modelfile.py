"""Ollama's Modelfile: SYSTEM and MESSAGE are a prompt, the rest is the model's or a setting.

A command is a word and a value up to the end of its line; a value in `"` or `\"\"\"` goes on to the
line that ends in them. `#` begins a comment where a command could begin.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from steerplug.errors import PresetError, nearest
from steerplug.files.text import one_line
from steerplug.files.yaml_file import printable
from steerplug.interchange.prompts.sorting import INSTRUCTION, SAME_TURNS, Part, Sorting, few
from steerplug.interchange.prompts.variables import Marked, refuse_marks

_STAYS = {
    "from": "the model; name one with -m",
    "adapter": "a LoRA; it goes beside the model: --lora",
    "draft": "a second model",
    "template": "the form of chats; steerplug takes the model's own, from its GGUF",
    "parameter": "a setting of sampling or of the model; say it where the model is run",
    "renderer": "the form of chats in Ollama",
    "parser": "the form of replies in Ollama",
    "requires": "a version of Ollama",
}
COMMANDS = (*_STAYS, "system", "message", "license")
_ROLES = ("system", "user", "assistant")


class Command(NamedTuple):
    """A command of a Modelfile, its word in lower case, and the line it begins on."""

    name: str
    value: str
    line: int


def sort_modelfile(text: str, source: str) -> Sorting:
    """Return a Modelfile as a preset on its way.

    Raises:
        PresetError: a line is no command of a Modelfile, a quote never ends, or a text holds NUL.
    """
    refuse_marks(text, source)
    sorting = Sorting("a Modelfile", source)
    commands = list(read_commands(text, source))
    systems = [one for one in commands if one.name == "system" and one.value.strip()]
    if systems:
        sorting.instruct("SYSTEM", Marked(systems[-1].value), INSTRUCTION)  # Ollama takes the last
    if len(systems) > 1:
        lines = few([str(one.line) for one in systems[:-1]])
        sorting.stay(f"SYSTEM on line {lines}", "Ollama itself takes the last one alone")
    messages = [_message(one, source) for one in commands if one.name == "message"]
    sorting.messages += [{"role": role, "content": said} for role, said in messages]
    if messages:
        sorting.taught.append(Part(f"MESSAGE ({len(messages)})", SAME_TURNS))
    for name, why in _STAYS.items():
        values = [printable(one_line(one.value)) for one in commands if one.name == name]
        if values:
            sorting.stay(f"{name.upper()} {few(values)}", why)
    _take_licence(commands, sorting)
    return sorting


def _take_licence(commands: list[Command], sorting: Sorting) -> None:
    texts = [one_line(one.value) for one in commands if one.name == "license"]
    if len(texts) == 1 and 0 < len(texts[0]) <= 100 and texts[0].isprintable():
        sorting.license = texts[0]
        sorting.taught.append(Part("LICENSE", "the preset's licence"))
    elif texts:
        sorting.stay("LICENSE", "a text; a preset's `license` is a short name, such as MIT")


def _message(command: Command, source: str) -> tuple[str, str]:
    role, _, said = command.value.partition(" ")
    if role not in _ROLES:
        raise PresetError(
            f"{source}, line {command.line}: MESSAGE is of `{printable(role)}`; it must be of "
            f"{', '.join(_ROLES[:-1])} or {_ROLES[-1]}."
        )
    return role, said


def read_commands(text: str, source: str) -> Iterator[Command]:
    """Yield the commands of a Modelfile.

    Raises:
        PresetError: a line is no command, or a quote never ends.
    """
    lines = text.replace("\r", "\n").split("\n")
    at = 0
    while at < len(lines):
        line, begun = lines[at].lstrip(" \t"), at + 1
        at += 1
        if not line or line.startswith("#"):
            continue
        word, rest = _word(line)
        name = word.lower()
        if name not in COMMANDS:
            cure = nearest(name, COMMANDS) or (
                f"; a Modelfile has {', '.join(COMMANDS).upper()}, and a text of several lines "
                'stands in """.'
            )
            raise PresetError(f"{source}, line {begun}: `{printable(word)}` is no command{cure}")
        role = ""
        if name == "message":
            role, rest = _word(rest)
        quote = _quote(rest)
        held = [rest[len(quote) :]]
        while quote and not _ends(held[-1], quote):
            if at == len(lines):
                raise PresetError(
                    f"{source}, line {begun}: {word.upper()} begins with {quote} that never ends "
                    "at the end of a line; close it."
                )
            held.append(lines[at])
            at += 1
        value = "\n".join(held).rstrip(" \t")
        value = value[: len(value) - len(quote)] if quote else value
        yield Command(name, f"{role} {value}" if name == "message" else value, begun)


def _word(line: str) -> tuple[str, str]:
    """Return the first word of a line, and what follows the blanks behind it."""
    word = re.split("[ \t]", line, maxsplit=1)[0]
    return word, line[len(word) :].lstrip(" \t")


def _quote(value: str) -> str:
    return '"""' if value.startswith('"""') else '"' if value.startswith('"') else ""


def _ends(line: str, quote: str) -> bool:
    return line.rstrip(" \t").endswith(quote)
