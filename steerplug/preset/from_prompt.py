"""A chat becomes a preset: what is said before the user's own message is the preset's teacher.

Contract: system messages, wherever they stand, are the instruction, joined by an empty line; the
other messages are example turns, a question and its answer, again and again. Texts are kept as they
are. What a preset cannot replace (an image, a tool, a question that nobody answered) is refused,
never left out.
"""

from collections.abc import Mapping, Sequence
from typing import NoReturn

from pydantic import ValidationError

from steerplug.errors import PresetError
from steerplug.files.problems import explain
from steerplug.files.yaml_file import YamlFile, printable
from steerplug.preset.preset import SCHEMA, Preset, Teacher

Message = Mapping[str, object]

FIT = {"method": "auto", "layers": "auto", "prompts": "general"}
_SYSTEM = ("system", "developer")  # OpenAI's newer models call it the latter
_TURN = ("user", "assistant")
_CALLS = ("tool_calls", "function_call")


def preset_from_messages(
    messages: Sequence[Message],
    name: str,
    fields: Mapping[str, object],
    source: str = "the prompt",
) -> Preset:
    """Return the preset that takes the place of `messages`.

    Args:
        messages: a chat, each message with `role` and `content` (a text, or a list of text parts).
        name: what to call the preset.
        fields: other keys of the preset, as in its YAML; without `fit`, it is
            `{method: auto, layers: auto, prompts: general}`.
        source: what errors call the chat.

    Raises:
        PresetError: the chat holds more than instruction and example turns, or nothing; or the
            name or a field is wrong.
    """
    for key in ("teacher", "contrast"):
        if key in fields:
            raise PresetError(f"`{key}` is given, but the prompt is the teacher; leave it out.")
    about: dict[str, object] = {"version": "1.0.0", "description": "Replaces a prompt.", "fit": FIT}
    data = _teacher(messages, source)
    try:
        teacher = Teacher.model_validate(data)
    except ValidationError as error:
        raise PresetError(explain(error, Teacher, YamlFile(source, data))) from None
    return Preset.from_mapping(
        {"schema": SCHEMA, "name": name, **about, **fields, "teacher": teacher}
    )


def _teacher(messages: Sequence[Message], source: str) -> dict[str, object]:
    """Return `system` and `examples`, as in the YAML."""
    system: list[str] = []
    turns: list[str] = []
    for i, message in enumerate(messages):
        role = message.get("role")
        text = _text(message, f"{source}: message {i}")
        if role in _SYSTEM:
            system.append(text)
        elif role == _TURN[len(turns) % 2]:
            turns.append(text)
        else:
            _refuse_turn(role, f"{source}: message {i}", len(turns) % 2 == 1)
    if len(turns) % 2:
        raise PresetError(
            f"{source} ends with a question that has no answer; add the answer as an example, or "
            "remove the question, which belongs in each request."
        )
    if not messages:
        raise PresetError(f"{source} is empty; give it an instruction or example turns.")
    examples = [
        {"user": user, "assistant": answer}
        for user, answer in zip(turns[::2], turns[1::2], strict=True)
    ]
    return {
        **({"system": "\n\n".join(system)} if system else {}),
        **({"examples": examples} if examples else {}),
    }


def _refuse_turn(role: object, where: str, answer_due: bool) -> NoReturn:
    if role not in _TURN:
        raise PresetError(
            f"{where} has the role `{printable(str(role))}`, which a preset cannot replace; keep "
            "system, user and assistant messages."
        )
    expected = "no answer to the question before it" if answer_due else "no question before it"
    raise PresetError(
        f"{where} is of the {role}, but has {expected}; let user and assistant take turns, the "
        "user first."
    )


def _text(message: Message, where: str) -> str:
    calls = [key for key in _CALLS if message.get(key)]
    if calls:
        raise PresetError(
            f"{where} holds `{calls[0]}`, which a preset cannot replace; keep texts only."
        )
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    text = "".join(_part(part, where) for part in parts)
    if not text.strip():
        raise PresetError(f"{where} is empty; give it a text or remove it.")
    return text


def _part(part: object, where: str) -> str:
    """Return the text of a message's content, or of one part of it."""
    if isinstance(part, Mapping) and part.get("type") == "text":
        part = part.get("text")
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        what = f"a part of type `{printable(str(part.get('type')))}`"
    else:
        what = "no text" if part is None else f"{type(part).__name__} as content"
    raise PresetError(f"{where} has {what}, but a preset replaces texts only; give it a text.")
