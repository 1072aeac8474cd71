"""`SteerplugLLM`: a local GGUF model that continues text, for LangChain's plain chains.

The same engine, steering and precedence as `ChatSteerplug`, without a chat template. LangChain's
cache for such models reads their fields and nothing that a call says; so what a call says becomes
fields of a copy, which then answers.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, closing
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM, LangSmithParams, LanguageModelInput
from langchain_core.outputs import GenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import run_in_executor

from steerplug.langchain.arguments import Arguments
from steerplug.langchain.errors import langchain_errors
from steerplug.langchain.local import CONFIG, LocalModel
from steerplug.langchain.messages import PROVIDER, to_text_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from steerplug.session import Event

_OF_A_RUN = ("stop", "callbacks", "tags", "metadata", "run_name", "run_id")


class SteerplugLLM(LocalModel, BaseLLM):
    """A local GGUF model that continues text, steered per call.

    Example:
        ```python
        llm = SteerplugLLM(model="smollm2", temperature=0, max_tokens=20)
        llm.invoke("Once upon a time", steering="0.8*weddings")
        ```

    Fields and arguments are those of `Arguments`; weights are shared with `ChatSteerplug`. Usage
    and receipt of a reply are in its `generation_info`.
    """

    model_config = CONFIG

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[str]:
        """Yield what the model writes after `input`; see `BaseLLM.stream`."""
        arguments = self._read(self._configured(config, kwargs))
        yield from super(SteerplugLLM, self._steered(arguments)).stream(input, config, **arguments)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[str]:
        """Yield what the model writes after `input`; see `BaseLLM.astream`."""
        arguments = await run_in_executor(None, self._prepare, self._configured(config, kwargs))
        chunks = super(SteerplugLLM, self._steered(arguments)).astream(input, config, **arguments)
        async with aclosing(cast("AsyncGenerator[str]", chunks)):
            async for chunk in chunks:
                yield chunk

    def generate(self, prompts: list[str], *args: Any, **arguments: Any) -> LLMResult:
        """Return what the model writes after each of `prompts`; see `BaseLLM.generate`."""
        model, run = self._answering(arguments)
        return super(SteerplugLLM, model).generate(prompts, *args, **run)

    async def agenerate(self, prompts: list[str], *args: Any, **arguments: Any) -> LLMResult:
        """Return what the model writes after each of `prompts`; see `BaseLLM.agenerate`."""
        model, run = self._answering(arguments)
        return await super(SteerplugLLM, model).agenerate(prompts, *args, **run)

    def _answering(self, arguments: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Return a copy whose fields are what a call says, and what the call says of its run."""
        run = {name: arguments.pop(name) for name in _OF_A_RUN if name in arguments}
        with langchain_errors():
            call = Arguments.of(self, self._read(arguments))
        return self._with({name: getattr(call, name) for name in Arguments.model_fields}), run

    def _steered(self, arguments: Mapping[str, Any]) -> Self:
        """Return a copy whose steering is a call's, which traces of the call will tell."""
        return self._with({"steering": self._chosen(arguments)})

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> LLMResult:
        return LLMResult(generations=[
            [_whole(list(self._stream(prompt, stop, None, **kwargs)))] for prompt in prompts
        ])  # fmt: skip

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> LLMResult:
        return LLMResult(generations=[
            [_whole([chunk async for chunk in self._astream(prompt, stop, None, **kwargs)])]
            for prompt in prompts
        ])  # fmt: skip

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with langchain_errors():
            call = Arguments.of(self, {**kwargs, "stop": stop})
            session = self._session(call)
            events = session.stream_complete(prompt, call.steering, call.settings())
            with closing(cast("Generator[Event, None, None]", events)):
                for event in events:
                    chunk = to_text_chunk(event, call.model, session.model.vocab)
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> "AsyncGenerator[GenerationChunk, None]":
        with langchain_errors():
            call = Arguments.of(self, {**kwargs, "stop": stop})
            session = await run_in_executor(None, self._session, call)
            events = session.astream_complete(prompt, call.steering, call.settings())
            async with aclosing(events):
                async for event in events:
                    chunk = to_text_chunk(event, call.model, session.model.vocab)
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        params = super()._get_ls_params(stop=stops if stop is None else stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params


def _whole(chunks: list[GenerationChunk]) -> GenerationChunk:
    return reduce(add, chunks)
