"""What a chat model and its calls may say that plain text has no use for."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import ConfigurableFieldSpec
from pydantic import BaseModel, Field, StrictBool, field_validator

from steerplug.errors import RequestError

_MARKS = ("prefix", "partial")

THINKING = (
    ConfigurableFieldSpec(
        id="enable_thinking", annotation=bool | None, name="Enable thinking",
        description="Whether the model thinks before it answers.",
    ),
    ConfigurableFieldSpec(
        id="reasoning_effort", annotation=str | None, name="Reasoning effort",
        description="How hard it thinks, where its template reads that; none: not at all.",
    ),
    ConfigurableFieldSpec(
        id="thinking_budget_tokens", annotation=int | None, name="Thinking budget",
        description="Most tokens of thought, behind which it answers; 0: none.",
    ),
)  # fmt: skip
"""What `config["configurable"]` may say of thinking."""


class ChatFields(BaseModel):
    """Fields of a chat model, and arguments of each call; None leaves the choice to steerplug."""

    chat_template_kwargs: dict[str, Any] | None = None
    """What else the chat template is given, such as `{"enable_thinking": False}`."""

    enable_thinking: StrictBool | None = None
    """Whether the model thinks before it answers; None: as its template has it."""

    reasoning_effort: str | None = None
    """How hard it thinks, where its template reads that: `low`, `medium`, `high`; `none`: not."""

    thinking_budget_tokens: Annotated[int, Field(strict=True, ge=0)] | None = None
    """Most tokens of thought, behind which the model answers; 0: none."""

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
            "continue_final_message is False, and the last message says that it is a prefix; set "
            "only one of them."
        )
    return bool(asked or is_marked)
