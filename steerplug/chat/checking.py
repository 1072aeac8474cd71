"""What is no chat, refused before a template sees it."""

from collections.abc import Sequence

from steerplug.chat.calls.plain import Message
from steerplug.chat.encoding import is_object
from steerplug.chat.tool import ToolCall
from steerplug.errors import RequestError, nearest

ROLES = ("system", "user", "assistant", "tool")


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse what is no chat.

    Raises:
        RequestError: the list is empty, or a message lacks a known role or text.
    """
    if not messages:
        raise RequestError("the list of messages is empty; send at least one user message.")
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RequestError(
                f"message {i} has the role {role!r}{nearest(str(role), ROLES) or '.'} "
                f"Roles are {', '.join(ROLES)}."
            )
        if not isinstance(content, str):
            raise RequestError(
                f"message {i} has {type(content).__name__} as content; send text."
            )
        if calls := message.get("tool_calls"):
            _check_calls(i, role, calls)


def _check_calls(i: int, role: object, calls: Sequence[ToolCall]) -> None:
    if role != "assistant":
        raise RequestError(f"message {i} calls tools as {role}; only the assistant calls tools.")
    for call in calls:
        if not is_object(call.arguments):
            raise RequestError(
                f"message {i} calls {call.name!r} with arguments that are no JSON object; send "
                'such as {"city": "Oslo"}.'
            )


def check_final(message: Message, i: int) -> None:
    """Refuse a last message that no reply can go on with.

    Raises:
        RequestError: it is not the assistant's, or calls tools.
    """
    if message["role"] != "assistant":
        raise RequestError(
            f"continue_final_message goes on with an assistant's message, and the last, message "
            f"{i}, is of the role {message['role']!r}; put the beginning of the reply behind it."
        )
    if message.get("tool_calls"):
        raise RequestError(
            f"message {i}, which the reply is to go on with, calls tools; send what they return, "
            "or leave out continue_final_message."
        )
