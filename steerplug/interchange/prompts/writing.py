"""A preset's teacher in other programs' formats, for those without steerplug.

There it is a prompt again: the model reads it with every chat, at one strength. `read_sorted` reads
either format back as the same teacher.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from steerplug.errors import PresetError
from steerplug.interchange.prompts.cards import spoken
from steerplug.interchange.prompts.modelfile import Command, read_commands
from steerplug.model_file import find_model
from steerplug.preset import Preset, Teacher

_HUB = "hf:"
IN_OLLAMA = {"smollm2": "smollm2:135m"}  # what Ollama's library calls our aliases


def teacher_of(preset: Preset) -> Teacher:
    """Return what a preset replaces.

    Raises:
        PresetError: it has a contrast, which is no prompt.
    """
    if preset.teacher is None:
        raise PresetError(
            f"`{preset.name}` is made from a contrast, which no prompt says; export its steering "
            "with `--to FILE.gguf`."
        )
    return preset.teacher


def ollama_name(model: str) -> str:
    """Return what a Modelfile calls a model.

    Args:
        model: as steerplug calls it: an alias, `hf:org/repo/file.gguf` or a path.

    Raises:
        ModelNotFound: there is no such file.
    """
    if model in IN_OLLAMA:
        return IN_OLLAMA[model]
    if model.startswith(_HUB):
        repo, _, file = model.removeprefix(_HUB).rpartition("/")
        return f"hf.co/{repo}:{file}"
    return str(find_model(model))


def modelfile(preset: Preset, model: str) -> str:
    """Return a Modelfile that says the preset's teacher before every chat.

    Args:
        preset: the preset.
        model: what the Modelfile calls the model.

    Raises:
        PresetError: it has no teacher, or its texts hold what a Modelfile cannot.
    """
    teacher = teacher_of(preset)
    said = [("system", teacher.system)] if teacher.system else []
    turns = [turn for one in teacher.examples for turn in (("user", one.user),
             ("assistant", one.assistant))]  # fmt: skip
    commands = [Command("from", model, 0)]
    commands += [Command("system", text, 0) for _, text in said]
    commands += [Command("message", f"{role} {text}", 0) for role, text in turns]
    commands += [Command("license", preset.license, 0)] if preset.license else []
    text = "\n".join(map(_line, commands)) + "\n"
    if not _reads_as(text, commands, preset.name):
        raise PresetError(
            f'the teacher of `{preset.name}` has a line that ends in """, or a lone carriage '
            "return, which no Modelfile can hold; export it `--as card`."
        )
    return text


def _reads_as(text: str, commands: Sequence[Command], source: str) -> bool:
    try:
        read = list(read_commands(text, source))
    except PresetError:  # what follows a quote that ended too early is no command
        return False
    return [one[:2] for one in read] == [one[:2] for one in commands]


def _line(command: Command) -> str:
    name, value = command.name.upper(), command.value
    if command.name == "message":
        role, _, value = value.partition(" ")
        name = f"{name} {role}"
    return f"{name} {value}" if command.name == "from" else f'{name} """{value}"""'


def card(preset: Preset) -> str:
    """Return a character card V2 in JSON, whose character answers as the preset makes a model.

    Raises:
        PresetError: it has no teacher, or its turns hold what a card reads as other turns.
    """
    teacher = teacher_of(preset)
    turns = [f"<START>\n{{{{user}}}}: {one.user}\n{{{{char}}}}: {one.assistant}"
             for one in teacher.examples]  # fmt: skip
    dialogues = "\n".join(turns)
    turns_meant = [(turn.user.strip(), turn.assistant.strip()) for turn in teacher.examples]
    if dialogues and spoken(dialogues, preset.name) != (turns_meant, [], 0):
        raise PresetError(
            f"an example turn of `{preset.name}` has a line that a card reads as another turn, "
            "such as `<START>` or `You: ...`; export it `--as modelfile`."
        )
    empty = dict.fromkeys(
        ("description", "personality", "scenario", "first_mes", "post_history_instructions"), ""
    )
    data: dict[str, Any] = {
        "name": preset.name, **empty, "mes_example": dialogues,
        "system_prompt": teacher.system or "", "creator_notes": preset.description,
        "alternate_greetings": [], "tags": list(preset.tags), "creator": "",
        "character_version": preset.version, "extensions": {},
    }  # fmt: skip
    whole = {"spec": "chara_card_v2", "spec_version": "2.0", "data": data}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def lost(preset: Preset, form: str) -> str:
    """Say what a preset's teacher is without the preset."""
    texts = [teacher_of(preset).system or ""]
    texts += [text for one in teacher_of(preset).examples for text in (one.user, one.assistant)]
    kept = [
        "the strength",
        *(["the checks"] if preset.checks else []),
        *(["the form of replies"] if preset.format else []),
        *(["the licence"] if preset.license and form == "card" else []),
    ]
    stays = f"{', '.join(kept[:-1])} and {kept[-1]} stay" if kept[1:] else f"{kept[0]} stays"
    size = sum(map(len, texts))
    filled = "; programs fill in its {{...}}" if form == "card" and "{{" in "".join(texts) else ""
    return f"the model reads {size} characters with every chat; {stays} in the preset{filled}"


FORMS: dict[str, Callable[[Preset, str], str]] = {
    "modelfile": lambda preset, model: modelfile(preset, ollama_name(model)),
    "card": lambda preset, _model: card(preset),
}
