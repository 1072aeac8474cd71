"""Ollama's requests, read as those of `server.requests`.

What Ollama calls `options` are settings beside the messages here, so presets may stand there as
well: `{"options": {"steering": "pirate"}}`. A model's name may end in `:latest`.
"""

from typing import Annotated, Any

from pydantic import Field

from steerplug.server.requests import MAX_MESSAGES, ChatBody, CompletionBody, ModelName, Open, read

_TAG = ":latest"


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

    def settings(self) -> dict[str, Any]:
        """Return all that is said besides the text."""
        return {
            **(self.options or {}), **(self.model_extra or {}),
            "model": plain_name(self.model), "stream": self.stream is not False,
        }  # fmt: skip


class OllamaChatBody(OllamaBody):
    """A chat to go on with; without messages, the model is only loaded, which it is."""

    messages: Annotated[list[dict[str, Any]], Field(max_length=MAX_MESSAGES)] | None = None


class GenerateBody(OllamaBody):
    """A prompt to reply to; `raw` goes on with it as it is, without the chat template."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None


def chat_body(body: OllamaChatBody) -> ChatBody:
    """Return a chat as OpenAI's clients would ask for it.

    Raises:
        RequestValidationError, Refused: it cannot be read.
    """
    return _chat(body, [_message(message) for message in body.messages or ()])


def generate_body(body: GenerateBody) -> ChatBody | CompletionBody:
    """Return a prompt as a chat, or a raw one as a text; errors as `chat_body`."""
    if body.raw:
        top = (body.top_logprobs or 0) if body.logprobs else None
        said = {**body.settings(), "prompt": body.prompt or "", "logprobs": top}
        return read(CompletionBody, {**said, "system": body.system})
    system = [{"role": "system", "content": body.system}] if body.system else []
    return _chat(body, [*system, {"role": "user", "content": body.prompt or ""}])


def _chat(body: OllamaBody, messages: list[dict[str, Any]]) -> ChatBody:
    likely = {"logprobs": body.logprobs, "top_logprobs": body.top_logprobs}
    return read(ChatBody, {**body.settings(), **likely, "messages": messages})


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message; the result of a tool names the tool, where OpenAI's names the call."""
    named = {k: v for k, v in message.items() if k != "tool_name"}
    return {"name": message["tool_name"], **named} if message.get("tool_name") else named
