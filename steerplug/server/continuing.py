"""Whether a reply goes on with the chat's last message, where that is the assistant's.

    continue_final_message: true                 as vLLM says it
    "prefix": true, "partial": true              as Mistral and Moonshot say it, in that message
    neither, and nothing that a reply must be    as llama.cpp's server and SillyTavern mean it

A client that wants another message instead says `add_generation_prompt: true`, or
`continue_final_message: false`.
"""

from steerplug.server.errors import Refused
from steerplug.server.format import asked_format
from steerplug.server.requests import ChatBody, Message


def goes_on(body: ChatBody) -> bool:
    """Return whether the reply goes on with the last message.

    Raises:
        Refused: what the request says does not go together.
    """
    _check_marked(body.messages)
    is_marked = _is_marked(body.messages[-1])
    wants, begins = body.continue_final_message, body.add_generation_prompt
    if (wants or is_marked) and begins:
        raise Refused(
            "add_generation_prompt is true, which begins another message, and the last one is to "
            "be continued; set only one of them.",
            param="add_generation_prompt",
        )
    if is_marked and wants is False:
        raise Refused(
            "continue_final_message is false, and the last message says that it is a prefix; set "
            "only one of them.",
            param="continue_final_message",
        )
    goes = bool(wants or is_marked or (wants is None and not begins and _may_go_on(body)))
    if begins is False and not goes:
        raise Refused(
            "add_generation_prompt is false, and there is no message to go on with; leave it out, "
            "or end with an assistant's message and set continue_final_message to true.",
            param="add_generation_prompt",
        )
    return goes


def _is_marked(message: Message) -> bool:
    return bool(message.prefix or message.partial)


def _check_marked(messages: list[Message]) -> None:
    for i, message in enumerate(messages):
        if _is_marked(message) and (message.role != "assistant" or i < len(messages) - 1):
            raise Refused(
                f"message {i} says that it is a prefix, which only the last message can be, the "
                "assistant's; leave it out there.",
                param="messages",
            )


def _may_go_on(body: ChatBody) -> bool:
    """Whether the last message can be the beginning of any reply that is asked for."""
    final, is_free = body.messages[-1], not body.tools and asked_format(body) is None
    return final.role == "assistant" and bool(final.content) and not final.tool_calls and is_free
