"""Ollama's requests, read as those of `server.requests`.

What Ollama calls `options` are settings beside the messages here, so presets may stand there as
well: `{"options": {"steering": "pirate"}}`. A model's name may end in `:latest`.
"""

from typing import Annotated, Any

from pydantic import Field

from steerplug.server.errors import Refused
from steerplug.server.requests import (
    MAX_MESSAGES,
    B,
    ChatBody,
    CompletionBody,
    ModelName,
    Open,
    read,
)

_TAG = ":latest"
_TOOLS = ("tools", "tool_choice", "functions", "function_call")


def plain_name(model: str) -> str:
    """Return a model's name without Ollama's tag."""
    return model.removesuffix(_TAG)


def tagged(model: str) -> str:
    """Return a model's name as Ollama lists it."""
    return model + _TAG


class OllamaBody(Open):
    """What a chat and a prompt have in common; `stream` is on unless it is switched off."""

    model: ModelName
    stream: bool | None = None
    options: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class OllamaChatBody(OllamaBody):
    """A chat to go on with; without messages, the model is only loaded, which it is."""

    messages: Annotated[list[dict[str, Any]], Field(max_length=MAX_MESSAGES)] | None = None


class GenerateBody(OllamaBody):
    """A prompt to reply to; `raw` goes on with it as it is, without the chat template."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None


def chat_body(body: OllamaChatBody) -> ChatBody:
    """Return a chat as OpenAI's clients would ask for it; one without messages says nothing.

    Raises:
        RequestValidationError, Refused: it cannot be read.
    """
    messages = [_message(message) for message in body.messages or ()]
    return _chat(body, messages or [{"role": "user", "content": ""}])


def generate_body(body: GenerateBody) -> ChatBody | CompletionBody:
    """Return a prompt as a chat, or a raw one as a text; errors as `chat_body`."""
    for stray in (body.model_extra or {}, body.options or {}):
        for name in _TOOLS:
            if stray.get(name):
                raise Refused(f"{name} is not served here: tools belong to /api/chat.", param=name)
    prompt = body.prompt or ""
    if body.raw:
        top = (body.top_logprobs or 0) if body.logprobs else None
        return _read(CompletionBody, body, prompt=prompt, system=body.system, logprobs=top)
    system = [{"role": "system", "content": body.system}] if body.system else []
    return _chat(body, [*system, {"role": "user", "content": prompt}])


def _chat(body: OllamaBody, messages: list[dict[str, Any]]) -> ChatBody:
    likely = {"logprobs": body.logprobs, "top_logprobs": body.top_logprobs}
    return _read(ChatBody, body, messages=messages, **likely)


def _read(kind: type[B], body: OllamaBody, **own: Any) -> B:
    """Return a request that says this, and what else Ollama's does."""
    head = {"model": plain_name(body.model), "stream": body.stream is not False}
    strays = {"": body.model_extra or {}, "options.": body.options or {}}
    origins = {"messages": "prompt"} if isinstance(body, GenerateBody) else {}
    return read(kind, {**head, **own}, strays, origins)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message; the result of a tool names the tool, where OpenAI's names the call."""
    named = {k: v for k, v in message.items() if k != "tool_name"}
    return {"name": message["tool_name"], **named} if message.get("tool_name") else named
