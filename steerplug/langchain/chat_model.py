"""`ChatSteerplug`: a local GGUF model as a LangChain chat model, steered per call.

    call argument  >  config["configurable"]  >  field

The first of these that says something chooses the steering; `"none"` says: none. What a call may
say is in `arguments`, how a config reaches it in `configured`, what comes out in `messages`.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict
from threading import Event
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables.config import run_in_executor
from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, SecretStr, model_validator

import steerplug
from steerplug.errors import ReplyTimeout, RequestError, SteerplugError
from steerplug.langchain.arguments import Arguments, one_sentence
from steerplug.langchain.configured import ConfiguredChatModel
from steerplug.langchain.errors import langchain_errors
from steerplug.langchain.fingerprint import fingerprint_model, fingerprint_steering
from steerplug.langchain.messages import PROVIDER, to_chat, to_chunk, to_last_chunk
from steerplug.langchain.sessions import session_for

if TYPE_CHECKING:
    from steerplug.session import Session

Chunks = Generator[ChatGenerationChunk, None, None]


class ChatSteerplug(ConfiguredChatModel, Arguments):
    """A local GGUF model that LangChain can chat with, steered per call.

    Weights are loaded at the first reply, and shared by all chat models of this process that name
    the same model, `n_ctx` and `n_threads`. Each reply says in `response_metadata["steering"]`
    what was applied to it.

    Example:
        ```python
        model = ChatSteerplug(model="smollm2", temperature=0, max_tokens=60)
        model.invoke("What is rain?")
        model.invoke("What is rain?", steering="0.8*weddings")
        model.invoke("What is rain?", config={"configurable": {"steering": "weddings"}})
        warm = model.with_steering("love-hate")
        ```

    The fields of `Arguments` are fields of the model, and arguments of each call. Errors are
    steerplug's and LangChain's at once: an unknown preset is a `PresetNotFound` and a
    `ModelNotFoundError`.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)

    n_ctx: int = Field(4096, ge=1, strict=True)
    """How many tokens a conversation may have."""

    n_threads: int | None = Field(None, ge=1, strict=True)
    """Threads; None: the processors this process may use."""

    streaming: bool | None = None
    """Whether `invoke` reports tokens to callbacks as they come; None: when a callback asks."""

    max_retries: int | None = Field(None, exclude=True)
    """Without effect: a local model has no connection to lose. Other chat models take it."""

    api_key: SecretStr | None = Field(None, exclude=True)
    """Without effect: a local model needs no key. Other chat models take it."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_one_sentence(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        with langchain_errors(), one_sentence(cls):
            return handler(data)

    @model_validator(mode="after")
    def _set_steerplug_version(self) -> Self:
        self._add_version("steerplug", steerplug.__version__)
        return self

    @property
    def model_name(self) -> str:
        """What the model is called."""
        return self.model

    def with_steering(self, steering: str | None) -> Self:
        """Return a copy with another steering; both use the same weights.

        Raises:
            PresetError: `steering` is no mix.
        """
        with langchain_errors():
            self.of_call({"steering": steering})
        copy = self.model_copy(update={"steering": steering})
        copy.__dict__.pop("_serialized", None)  # cached by LangChain for its traces
        return copy

    def get_token_ids(self, text: str) -> list[int]:
        """Return the tokens of `text` in the model's own vocabulary."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        with langchain_errors():
            return self._session(self).model.vocab.tokenize(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return how many tokens a chat of `messages` is, with the model's own template."""
        with langchain_errors():
            if tools is not None:
                raise RequestError("the tokens of tools cannot be counted yet; leave tools out.")
            return len(self._session(self).template.prompt(to_chat(messages)).tokens)

    # Generating

    def _session(self, call: Arguments) -> "Session":
        return session_for(call.model, self.n_ctx, self.n_threads)

    def _chunks(
        self, messages: list[BaseMessage], stop: list[str] | None, said: Mapping[str, Any]
    ) -> Chunks:
        from steerplug.receipt import Reply

        with langchain_errors():
            call = self.of_call({**said, "stop": stop})
            begin = time.monotonic()
            session = self._session(call)
            for event in session.stream_chat(to_chat(messages), call.steering, call.settings()):
                if isinstance(event, Reply):
                    yield to_last_chunk(event, call.model)
                    return
                if event.text:
                    yield to_chunk(event.text)
                if call.timeout is not None and time.monotonic() - begin > call.timeout:
                    raise ReplyTimeout(
                        f"the reply took longer than {call.timeout:g} seconds; raise timeout, or "
                        "lower max_tokens."
                    )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._chunks(messages, stop, kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self._chunks(messages, stop, kwargs):
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        chunks = [chunk async for chunk in _elsewhere(self._chunks(messages, stop, kwargs))]
        return generate_from_stream(iter(chunks))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(_elsewhere(self._chunks(messages, stop, kwargs))) as chunks:
            async for chunk in chunks:
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    # What LangChain asks of a model's identity

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> dict[str, Any]:
        said = {name: getattr(self, name) for name in Arguments.model_fields}
        return {**said, "model_name": self.model, "n_ctx": self.n_ctx, **self._fingerprints({})}

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        params = super()._get_invocation_params(stop=stop, **kwargs)
        return {**params, **self._fingerprints(kwargs)}

    def _fingerprints(self, said: Mapping[str, Any]) -> dict[str, str]:
        """Return fingerprints for traces; none if the call will be refused."""
        with suppress(SteerplugError):
            call = self.of_call(said)
            return {
                "model_fingerprint": fingerprint_model(call.model),
                "steering_fingerprint": fingerprint_steering(call.steering),
            }
        return {}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """Return the key of LangChain's cache: all that a reply depends on, by content."""
        with langchain_errors():
            call = self.of_call({**kwargs, "stop": stop})
            content = {
                "_type": self._llm_type,
                "model": fingerprint_model(call.model),
                "steering": fingerprint_steering(call.steering),
                "n_ctx": self.n_ctx,
                **asdict(call.settings()),
            }
        return str(sorted(content.items()))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        params = super()._get_ls_params(stop=stops if stop is None else stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params

    def _prepare(self, said: Mapping[str, Any]) -> None:
        """Find the model's file and read it once, which a hub may make slow."""
        self._fingerprints(said)


async def _elsewhere(chunks: Chunks) -> AsyncGenerator[ChatGenerationChunk, None]:
    """Yield chunks that are made on other threads; once nobody takes them, none are made."""
    given_up = Event()
    try:
        while (chunk := await run_in_executor(None, _next, chunks, given_up)) is not None:
            yield chunk
    finally:
        given_up.set()
        with suppress(ValueError):  # it runs at this moment, and `_next` will close it
            chunks.close()


def _next(chunks: Chunks, given_up: Event) -> ChatGenerationChunk | None:
    chunk = next(chunks, None)
    if given_up.is_set():
        chunks.close()
    return chunk
