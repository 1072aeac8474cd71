"""What a chat model and its calls may say that plain text has no use for."""

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from pydantic import BaseModel, StrictBool, field_validator

from steerplug.errors import RequestError

_MARKS = ("prefix", "partial")


class ChatFields(BaseModel):
    """Fields of a chat model, and arguments of each call; None leaves the choice to steerplug."""

    chat_template_kwargs: dict[str, Any] | None = None
    """What else the chat template is given, such as `{"enable_thinking": False}`."""

    parse_special: StrictBool | None = None
    """Whether control tokens such as `<|im_end|>` count in what people wrote; None: no."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _is_json(cls, variables: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            json.dumps(variables)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(
                f"chat_template_kwargs holds what is no JSON ({error}); give texts, numbers, "
                "lists and the like."
            ) from None
        return variables


def goes_on(messages: Sequence[BaseMessage], asked: bool | None) -> bool:
    """Return whether a reply goes on with the last message.

    Args:
        messages: the chat; `additional_kwargs={"prefix": True}` in its last message asks for it.
        asked: what the call says.

    Raises:
        RequestError: message and call say different things.
    """
    final = messages[-1] if messages else None
    is_marked = isinstance(final, AIMessage) and any(map(final.additional_kwargs.get, _MARKS))
    if is_marked and asked is False:
        raise RequestError(
            "continue_final_message is False, and the last message says that it is a prefix; say "
            "one of them."
        )
    return bool(asked or is_marked)
