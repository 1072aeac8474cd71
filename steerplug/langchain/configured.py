"""Steering said in a config reaches the call, by whatever route LangChain takes to the model.

`config["configurable"]["steering"]` becomes the call argument `steering`, unless there is one.
LangChain's own `configurable_fields` loses it on the way through `bind_tools`, and agents lose a
bound config; this does not, and the model stays a chat model.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import ConfigurableFieldSpec, RunnableConfig, ensure_config
from langchain_core.runnables.config import run_in_executor

_SPEC = ConfigurableFieldSpec(  # the same for every model, or chains of two would be refused
    id="steering",
    annotation=str | None,
    name="Steering",
    description="A mix of presets, such as `0.8*weddings + love-hate`; `none` for no steering.",
)


class ConfiguredChatModel(BaseChatModel):
    """A chat model that takes the call argument `steering`, and reads it from configs."""

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What `config["configurable"]` may hold."""
        return [*super().config_specs, _SPEC]

    def _prepare(self, said: Mapping[str, Any]) -> None:
        """Do what would block the event loop; called on another thread before an async call."""

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Return the reply to `input`."""
        return super().invoke(input, config, stop=stop, **_steered(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Return the reply to `input`, made on another thread; cancelling stops it."""
        said = _steered(config, kwargs)
        await run_in_executor(None, self._prepare, said)
        return await super().ainvoke(input, config, stop=stop, **said)

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Yield the reply to `input` as it is made."""
        yield from super().stream(input, config, stop=stop, **_steered(config, kwargs))

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Yield the reply to `input` as it is made on another thread; closing stops it."""
        said = _steered(config, kwargs)
        await run_in_executor(None, self._prepare, said)
        chunks = super().astream(input, config, stop=stop, **said)
        async with aclosing(cast("AsyncGenerator[AIMessageChunk]", chunks)):
            async for chunk in chunks:
                yield chunk

    def stream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Stream typed events; see `BaseChatModel.stream_events`."""
        said = _steered(config, kwargs) if kwargs.get("version") == "v3" else kwargs
        return super().stream_events(input, config, **said)

    def astream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Stream typed events; see `BaseChatModel.astream_events`."""
        said = _steered(config, kwargs) if kwargs.get("version") == "v3" else kwargs
        return super().astream_events(input, config, **said)


def _steered(config: RunnableConfig | None, said: dict[str, Any]) -> dict[str, Any]:
    """Return call arguments with the steering of the config, if they say none themselves."""
    if said.get("steering") is not None:
        return said
    configured = ensure_config(config).get("configurable", {}).get("steering")
    return said if configured is None else {**said, "steering": configured}
