"""LangChain messages to chat messages, and replies to LangChain messages.

A message that says more than a chat can hold, such as an image, is refused, never cut down to its
text. What an AI message thought goes along, from its content blocks or from
`additional_kwargs["reasoning_content"]`, for templates that want it; and so it comes back.
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
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages import ToolCall as LangChainCall
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, GenerationChunk

from steerplug.chat.messages import to_messages
from steerplug.chat.tool import CallPiece, ToolCall
from steerplug.errors import RequestError
from steerplug.session.receipt import Reply

if TYPE_CHECKING:
    from steerplug.engine.vocab import Vocab
    from steerplug.session import Event

PROVIDER = "steerplug"
THOUGHT = "reasoning_content"
"""Where additional_kwargs hold thoughts; LangChain makes `reasoning` blocks of it."""

_KEPT = ("function_call", "refusal", THOUGHT)
_ROLES: dict[type[BaseMessage], str] = {
    SystemMessage: "system",
    HumanMessage: "user",
    AIMessage: "assistant",
    ToolMessage: "tool",
    FunctionMessage: "function",
}


def to_chat(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return LangChain messages as what a `Session` reads.

    Raises:
        RequestError: a message is of an unknown kind, or holds more than text and calls.
    """
    return to_messages([_to_message(message, i) for i, message in enumerate(messages)])


def _to_message(message: BaseMessage, i: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": _role(message, i), "content": message.content}
    fields["name"] = message.name
    if isinstance(message, ToolMessage):
        fields["tool_call_id"] = message.tool_call_id
    if isinstance(message, AIMessage):
        fields["tool_calls"] = message.tool_calls
        fields["invalid_tool_calls"] = message.invalid_tool_calls
        fields |= {key: message.additional_kwargs.get(key) for key in _KEPT}
    return fields


def _role(message: BaseMessage, i: int) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in _ROLES.items():
        if isinstance(message, kind):
            return role
    raise RequestError(
        f"message {i} is a {type(message).__name__}; send system, human, AI, tool or chat messages."
    )


# Replies


def to_result(events: Sequence["Event"], model: str, vocab: "Vocab") -> ChatResult:
    """Return a reply as a whole; the last of its events is the reply."""
    *parts, reply = events
    assert isinstance(reply, Reply)
    calls, broken = _to_calls(reply.tool_calls)
    message = AIMessage(
        reply.text, tool_calls=calls, invalid_tool_calls=broken, usage_metadata=_usage(reply),
        additional_kwargs={THOUGHT: reply.reasoning} if reply.reasoning else {},
        response_metadata=_response_metadata(reply, model),
    )  # fmt: skip
    info: dict[str, Any] = {"finish_reason": reply.finish_reason}
    if logprobs := [token for part in parts for token in _logprobs(part, vocab)]:
        info["logprobs"] = {"content": logprobs}
    return ChatResult(generations=[ChatGeneration(message=message, generation_info=info)])


def to_chunk(event: "Event", model: str, vocab: "Vocab") -> ChatGenerationChunk | None:
    """Return an event of a reply as a part of a stream; None where it says nothing."""
    if isinstance(event, CallPiece):
        call = tool_call_chunk(
            name=event.name, args=event.arguments, id=event.id, index=event.index
        )
        return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[call]))
    if isinstance(event, Reply):
        return _to_last_chunk(event, model)
    logprobs = _logprobs(event, vocab)
    if not event.text and not logprobs:
        return None
    info = {"logprobs": {"content": logprobs}} if logprobs else None
    if event.in_thought:
        told = AIMessageChunk(content="", additional_kwargs={THOUGHT: event.text})
    else:
        told = AIMessageChunk(content=event.text)
    return ChatGenerationChunk(message=told, generation_info=info)


def _to_last_chunk(reply: Reply, model: str) -> ChatGenerationChunk:
    """Return what ends a stream: no text, but usage and metadata, said this once."""
    message = AIMessageChunk(
        content="",
        usage_metadata=_usage(reply),
        response_metadata=_response_metadata(reply, model),
        chunk_position="last",
    )
    info = {"finish_reason": reply.finish_reason}
    return ChatGenerationChunk(message=message, generation_info=info)


def to_text_chunk(event: "Event", model: str, vocab: "Vocab") -> GenerationChunk:
    """Return an event of a completion as a part of a stream; the last says usage and metadata."""
    if isinstance(event, Reply):
        info = {**_response_metadata(event, model), "usage_metadata": _usage(event)}
        return GenerationChunk(text="", generation_info=info)
    logprobs = _logprobs(event, vocab)
    return GenerationChunk(
        text="" if isinstance(event, CallPiece) else event.text,
        generation_info={"logprobs": {"content": logprobs}} if logprobs else None,
    )


def _to_calls(
    calls: Sequence[ToolCall],
) -> tuple[list[LangChainCall], list[InvalidToolCall]]:
    """Return calls with their arguments parsed, and those that were cut off before they ended."""
    whole: list[LangChainCall] = []
    broken: list[InvalidToolCall] = []
    for call in calls:
        try:
            args = json.loads(call.arguments)
        except (ValueError, RecursionError):
            broken.append(InvalidToolCall(
                type="invalid_tool_call", id=call.id, name=call.name, args=call.arguments,
                error="the arguments are no JSON that can be read",
            ))  # fmt: skip
        else:
            whole.append(LangChainCall(type="tool_call", id=call.id, name=call.name, args=args))
    return whole, broken


def _usage(reply: Reply) -> UsageMetadata:
    usage = reply.usage
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning_tokens),
    )


def _response_metadata(reply: Reply, model: str) -> dict[str, Any]:
    receipt: dict[str, Any] = json.loads(json.dumps(asdict(reply.receipt)))  # tuples become lists
    return {
        "model_name": model,
        "model_provider": PROVIDER,
        "finish_reason": reply.finish_reason,
        "seed": reply.seed,
        "steering": receipt,
        "timings": _timings(reply),
    }


def _timings(reply: Reply) -> dict[str, Any]:
    """Return how long a reply took, in the words of llama.cpp's server."""
    usage, to_first = reply.usage, reply.seconds_to_first
    after = reply.seconds - to_first
    n_after = usage.completion_tokens - 1  # the first comes with the prompt
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": usage.prompt_tokens - usage.cached_tokens,
        "prompt_ms": 1000 * to_first,
        "predicted_n": usage.completion_tokens,
        "predicted_ms": 1000 * after,
        "predicted_per_second": n_after / after if n_after > 0 and after > 0 else 0.0,
    }


def _logprobs(part: "Event", vocab: "Vocab") -> list[dict[str, Any]]:
    """Return how likely a piece's token was, in the form that chat models agree on."""
    if isinstance(part, CallPiece | Reply) or part.logprobs is None or part.token is None:
        return []
    if part.in_thought:
        return []
    top = [_token(token, logprob, vocab) for token, logprob in part.logprobs.top]
    return [{**_token(part.token, part.logprobs.logprob, vocab), "top_logprobs": top}]


def _token(token: int, logprob: float, vocab: "Vocab") -> dict[str, Any]:
    text = vocab.piece(token)
    return {"token": text.decode("utf-8", "replace"), "bytes": list(text), "logprob": logprob}
