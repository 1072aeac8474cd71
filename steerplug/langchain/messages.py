"""LangChain messages to chat messages, and replies to LangChain messages.

A message that says more than text (an image, a tool call) is refused, never cut down to its text.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGenerationChunk

from steerplug.errors import RequestError

if TYPE_CHECKING:
    from steerplug.receipt import Reply

PROVIDER = "steerplug"
_ROLES: dict[type[BaseMessage], str] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
    ToolMessage: "tool",
}


def to_chat(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """Return LangChain messages as what a `Session` reads.

    Raises:
        RequestError: a message is of an unknown kind, or holds more than text.
    """
    return [
        {"role": _role(message, i), "content": _text(message, i)}
        for i, message in enumerate(messages)
    ]


def _role(message: BaseMessage, i: int) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in _ROLES.items():
        if isinstance(message, kind):
            return role
    raise RequestError(
        f"message {i} is a {type(message).__name__}; send system, human, AI, tool or chat messages."
    )


def _text(message: BaseMessage, i: int) -> str:
    if isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls):
        raise RequestError(f"message {i} calls tools, which steerplug cannot read yet; send text.")
    if isinstance(message.content, str):
        return message.content
    return "".join(_block_text(block, i) for block in message.content)


def _block_text(block: str | dict[str, Any], i: int) -> str:
    if isinstance(block, str):
        return block
    text = block.get("text")
    if block.get("type") != "text" or not isinstance(text, str):
        raise RequestError(
            f"message {i} holds a block of type {block.get('type')!r}; "
            "a text model reads text blocks only."
        )
    return text


def to_chunk(text: str) -> ChatGenerationChunk:
    """Return a piece of a reply."""
    return ChatGenerationChunk(message=AIMessageChunk(content=text))


def to_last_chunk(reply: "Reply", model: str) -> ChatGenerationChunk:
    """Return what ends a stream: no text, but usage and metadata, said this once."""
    message = AIMessageChunk(
        content="",
        usage_metadata=_usage(reply),
        response_metadata=_response_metadata(reply, model),
        chunk_position="last",
    )
    info = {"finish_reason": reply.finish_reason}
    return ChatGenerationChunk(message=message, generation_info=info)


def _usage(reply: "Reply") -> UsageMetadata:
    usage = reply.usage
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
    )


def _response_metadata(reply: "Reply", model: str) -> dict[str, Any]:
    receipt: dict[str, Any] = json.loads(json.dumps(asdict(reply.receipt)))  # tuples become lists
    return {
        "model_name": model,
        "model_provider": PROVIDER,
        "finish_reason": reply.finish_reason,
        "seed": reply.seed,
        "steering": receipt,
    }
