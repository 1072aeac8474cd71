"""Steering said in a config reaches the call, by whatever route LangChain takes to the model.

`config["configurable"]["steering"]` becomes the call argument `steering`, unless there is one, and
`config["configurable"]["carrier"]` the argument `carrier`; of a chat model, so does what it says of
thinking.
LangChain's own `configurable_fields` loses it on the way through `bind_tools`, and agents lose a
bound config; this does not, and the model stays a model.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import (
    ConfigurableFieldSpec,
    Runnable,
    RunnableConfig,
    ensure_config,
)
from langchain_core.runnables.config import get_config_list, run_in_executor
from pydantic import WithJsonSchema

from steerplug.errors import SteerplugError
from steerplug.library.presets import list_presets
from steerplug.preset.carrier import Carrier

AT_ONCE = 32
"""How many items of a batch run at once unless a config says otherwise: as many as an engine has
sequences, where LangChain's own choice follows the number of processors."""

if TYPE_CHECKING:
    _Model = Runnable[LanguageModelInput, Any]
else:
    _Model = object  # the model's own base comes after this one


class Configured(_Model):
    """A model that takes the arguments `steering` and `carrier`, and reads them from configs."""

    _also_configured: ClassVar[tuple[ConfigurableFieldSpec, ...]] = ()
    """What else a config may say: arguments of a call."""

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What `config["configurable"]` may hold."""
        return [*super().config_specs, *_specs(), *self._also_configured]

    def _configured(
        self, config: RunnableConfig | None, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """Return call arguments with what the config says, where they say nothing themselves."""
        told = ensure_config(config).get("configurable", {})
        names = ("steering", "carrier", *(spec.id for spec in self._also_configured))
        said = {name: told[name] for name in names if told.get(name) is not None}
        own = {name: value for name, value in arguments.items() if value is not None}
        return {**arguments, **said, **own}

    def _read(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return call arguments with their steering read once, for all who ask in this call."""
        return arguments

    def _prepare(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Do the same, and what else would block the event loop; called on another thread."""
        return self._read(arguments)

    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Return the reply to `input`."""
        arguments = self._read(self._configured(config, kwargs))
        return super().invoke(input, config, **arguments)  # type: ignore[safe-super]

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Return the reply to `input`; cancelling stops it."""
        arguments = await run_in_executor(None, self._prepare, self._configured(config, kwargs))
        return await super().ainvoke(input, config, **arguments)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Yield the reply to `input` as it is made."""
        yield from super().stream(input, config, **self._read(self._configured(config, kwargs)))

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Yield the reply to `input` as it is made; closing stops it."""
        arguments = await run_in_executor(None, self._prepare, self._configured(config, kwargs))
        chunks = super().astream(input, config, **arguments)
        async with aclosing(cast("AsyncGenerator[Any]", chunks)):
            async for chunk in chunks:
                yield chunk

    def stream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Stream typed events; see `Runnable.stream_events`."""
        is_call = kwargs.get("version") == "v3"  # the others come by `astream`
        arguments = self._read(self._configured(config, kwargs)) if is_call else kwargs
        return super().stream_events(input, config, **arguments)

    def astream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Stream typed events; see `Runnable.astream_events`."""
        is_call = kwargs.get("version") == "v3"  # the others come by `astream`
        arguments = self._read(self._configured(config, kwargs)) if is_call else kwargs
        return super().astream_events(input, config, **arguments)

    # Batches: each item is a call of its own, with its own config, all on one engine

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Return the replies to `inputs`, made together."""
        return Runnable.batch(self, inputs, _together(config, len(inputs)), **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Return the replies to `inputs`, made together."""
        return await Runnable.abatch(self, inputs, _together(config, len(inputs)), **kwargs)

    def batch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Yield (index, reply) as replies end."""
        configs = _together(config, len(inputs))
        yield from Runnable.batch_as_completed(self, inputs, configs, **kwargs)

    async def abatch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Yield (index, reply) as replies end."""
        configs = _together(config, len(inputs))
        async for item in Runnable.abatch_as_completed(self, inputs, configs, **kwargs):
            yield item


def _together(
    config: RunnableConfig | Sequence[RunnableConfig] | None, n: int
) -> list[RunnableConfig]:
    """Return a config for each item, which lets all run that fit into an engine."""
    configs = get_config_list(config, n)
    return [
        {**item, "max_concurrency": item.get("max_concurrency") or AT_ONCE} for item in configs
    ]


def _specs() -> Iterator[ConfigurableFieldSpec]:
    """Yield what configs may say; the same for every model, or chains of two would be refused."""
    presets: list[str] = []
    with suppress(SteerplugError):  # a folder that cannot be read is no reason to hide the field
        presets = [listing.name for listing in list_presets() if listing.error is None]
    schema = {"anyOf": [{"type": "string"}, {"type": "null"}], "examples": [*presets, "none"]}
    yield ConfigurableFieldSpec(
        id="carrier",
        annotation=Carrier | None,
        name="Carrier",
        description="What brings presets in: auto, steering, prompt or both.",
    )
    yield ConfigurableFieldSpec(
        id="steering",
        annotation=Annotated[str | None, WithJsonSchema(schema)],
        name="Steering",
        description=(
            "A mix of presets, such as `0.8*weddings + love-hate`; `none` for no steering. "
            f"Presets: {', '.join(presets)}."
        ),
    )
