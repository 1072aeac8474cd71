"""A prompt of LangChain becomes a preset: what every call repeats goes, what varies stays.

    template = static part (the preset's teacher) + rest (what each call still sends)

Contract: the static part ends before the first message that holds a variable, and never between a
question and its answer. Values given by `template.partial` are filled in; a value that is a
function is read anew in each call, so it counts as a variable.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, convert_to_messages
from langchain_core.messages.utils import MessageLikeRepresentation
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from steerplug.errors import PresetError, RequestError
from steerplug.langchain.errors import langchain_errors
from steerplug.langchain.messages import to_chat
from steerplug.preset import Preset
from steerplug.preset.from_prompt import preset_from_messages


def preset_from_prompt(
    prompt: str | Sequence[MessageLikeRepresentation] | ChatPromptTemplate,
    name: str,
    **fields: object,
) -> Preset:
    """Return the preset that takes the place of a prompt.

    Args:
        prompt: an instruction, messages, or a template, of which the static part counts.
        name: what to call the preset.
        fields: other keys of the preset, as in its YAML, such as `fit={"method": "chain"}`.

    Raises:
        PresetError: nothing of the prompt is static, or that part holds more than an instruction
            and example turns; or the name or a field is wrong. LangChain knows it as a
            `ModelInvalidRequestError`.

    Example:
        ```python
        save_preset(preset_from_prompt(template, "house-style"))
        _, rest = split_prompt(template)
        chain = rest | ChatSteerplug(steering="house-style")
        ```
    """
    with langchain_errors():
        try:
            chat = to_chat(_static(prompt))
        except RequestError as error:
            raise PresetError(f"the prompt cannot become a preset: {error}") from None
        return preset_from_messages(chat, name, fields)


def split_prompt(template: ChatPromptTemplate) -> tuple[list[BaseMessage], ChatPromptTemplate]:
    """Return a template's static part as messages, and the rest as a template.

    Either may be empty; together they format to what `template` does.
    """
    values = _values(template)
    static: list[BaseMessage] = []
    seen: list[BaseMessage] = []
    n_static = 0
    for n, message in enumerate(template.messages, 1):
        if _variables(message, values):
            break
        seen += ChatPromptTemplate([message], partial_variables=values).format_messages()
        if seen and not isinstance(seen[-1], HumanMessage):
            static, n_static = seen[:], n
    rest = ChatPromptTemplate(
        template.messages[n_static:],
        partial_variables=dict(template.partial_variables),
        input_types=dict(template.input_types),
    )
    return static, rest


def _static(prompt: object) -> list[BaseMessage]:
    """Return the messages of a prompt that are the same in every call."""
    if isinstance(prompt, ChatPromptTemplate):
        return split_prompt(prompt)[0] or _refuse(prompt)
    if isinstance(prompt, str):
        return [SystemMessage(prompt)]
    try:
        if isinstance(prompt, Sequence):
            return convert_to_messages(prompt)
    except (ValueError, NotImplementedError):
        pass
    raise PresetError(
        f"the prompt is a {type(prompt).__name__} that holds no messages; give a text, a list of "
        "messages, or a ChatPromptTemplate."
    )


def _refuse(template: ChatPromptTemplate) -> NoReturn:
    """Say why nothing of a template is static."""
    values = _values(template)
    for i, message in enumerate(template.messages):
        for name in _variables(message, values):
            raise PresetError(
                f"nothing of the prompt is static, because message {i} holds the variable "
                f"`{name}`; give it a fixed value with `template.partial({name}=...)`, or put what "
                "varies into a later message."
            )
    raise PresetError(
        "the prompt has nothing before its question; put a system message or example turns there."
    )


def _values(template: ChatPromptTemplate) -> dict[str, Any]:
    """Return the partial values that are the same in every call."""
    return {k: v for k, v in template.partial_variables.items() if not callable(v)}


def _variables(message: object, values: Mapping[str, Any]) -> list[str]:
    """Return what a call gives to a message or to a template of messages."""
    if isinstance(message, MessagesPlaceholder):
        name = message.variable_name
        return [] if values.get(name) else [name]  # an optional one has [] until a call fills it
    asked = [*getattr(message, "input_variables", ()), *getattr(message, "optional_variables", ())]
    names = [name for name in asked if name not in values]
    if getattr(message, "example_selector", None) is not None:
        names.append("examples")
    prompt = getattr(message, "prompt", message)
    for part in prompt if isinstance(prompt, list) else [prompt]:
        partial = getattr(part, "partial_variables", {})
        names += [name for name, value in partial.items() if callable(value)]
    return names
