"""Presets as models of the `llm` command-line tool: `llm -m smollm2@pirate "What is rain?"`.

The model runs in this process. Every alias of `find_model` is a model, bare and with each preset of
the library; `$STEERPLUG_MODEL` adds another, by its path or hub address.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, Self

import llm
from pydantic import Field, ModelWrapValidatorHandler, model_validator

from steerplug.errors import SteerplugError
from steerplug.library.presets import list_presets
from steerplug.model_file import ALIASES
from steerplug.preset.carrier import Carrier
from steerplug.session.loading_fields import LoadingFields
from steerplug.session.sampling_fields import SamplingFields
from steerplug.session.shared import session_for


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Tell `llm` which models there are."""
    presets = [listing.name for listing in list_presets() if listing.error is None]
    added = os.environ.get("STEERPLUG_MODEL")
    for model in dict.fromkeys([*ALIASES, *([added] if added else [])]):
        register(SteeredModel(model, None))
        for preset in presets:
            register(SteeredModel(model, preset))


class SteeredModel(llm.Model):
    """A local model, bare or steered by a preset; loaded when it is first asked.

    Args:
        model: a path, `hf:org/repo/file.gguf`, or an alias.
        preset: the preset, or None for the bare model.
    """

    can_stream = True
    supports_schema = True

    class Options(SamplingFields, LoadingFields, llm.Options):
        """What `llm -o NAME VALUE` may say."""

        steering: str | None = Field(None, description="A mix, in place of the model's preset.")
        carrier: Carrier | None = Field(
            None, description="What brings presets in: auto, steering, prompt or both."
        )
        max_tokens: int | None = Field(None, description="Most tokens to write; -1: all that fit.")
        enable_thinking: bool | None = Field(None, description="Whether to think first.")
        reasoning_effort: str | None = Field(None, description="How hard it thinks; none: not.")
        thinking_budget_tokens: int | None = Field(None, description="Most tokens of thought.")

        @model_validator(mode="wrap")
        @classmethod
        def _refuse_as_llm_does(cls, words: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
            try:
                return read(words)
            except SteerplugError as error:
                raise ValueError(str(error)) from None

    def __init__(self, model: str, preset: str | None) -> None:
        self.model_id = f"{model}@{preset}" if preset else model
        self._model, self._preset = model, preset

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,  # noqa: ARG002  pieces are told either way
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str]:
        """Yield the pieces of a reply."""
        from steerplug.engine.engine import Piece
        from steerplug.session.receipt import Reply

        options: Any = prompt.options
        try:
            session = session_for(self._model, options.loading())
            steering = self._preset if options.steering is None else options.steering
            messages = list(_messages(prompt, conversation))
            for event in session.stream_chat(messages, steering, _settings(prompt)):
                if isinstance(event, Piece) and event.text and not event.in_thought:
                    yield event.text
                elif isinstance(event, Reply):
                    response.response_json = event.to_dict()
                    usage = event.usage
                    response.set_usage(input=usage.prompt_tokens, output=usage.completion_tokens)
        except SteerplugError as error:
            raise llm.ModelError(str(error)) from None


def _settings(prompt: llm.Prompt) -> Any:
    from steerplug.chat.tool import closed
    from steerplug.session import Settings

    options: Any = prompt.options
    schema = closed(prompt.schema) if isinstance(prompt.schema, dict) else None
    return Settings(
        options.sampling(), max_tokens=options.max_tokens, format=schema,
        carrier=options.carrier or "auto", enable_thinking=options.enable_thinking,
        reasoning_effort=options.reasoning_effort,
        thinking_budget_tokens=options.thinking_budget_tokens,
    )  # fmt: skip


def _messages(
    prompt: llm.Prompt, conversation: llm.Conversation | None
) -> Iterator[dict[str, str]]:
    """Yield the chat so far; a system prompt is said again where it changes."""
    system = None
    responses: Any = conversation.responses if conversation else ()
    for earlier in responses:
        if earlier.prompt.system and earlier.prompt.system != system:
            system = earlier.prompt.system
            yield {"role": "system", "content": system}
        yield {"role": "user", "content": earlier.prompt.prompt or ""}
        yield {"role": "assistant", "content": earlier.text_or_raise()}
    if prompt.system and prompt.system != system:
        yield {"role": "system", "content": prompt.system}
    yield {"role": "user", "content": prompt.prompt or ""}
