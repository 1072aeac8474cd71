"""`ChatSteerplug`: a local GGUF model as a LangChain chat model, steered per call.

Which steering wins is said in `local`, what a call may say in `call`, what comes out in `messages`.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import (
    BaseChatModel,
    LangSmithParams,
    LanguageModelInput,
    ModelProfile,
)
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import run_in_executor
from pydantic import Field, SecretStr

from steerplug.langchain.binding import Bound
from steerplug.langchain.call import Call
from steerplug.langchain.chat_fields import THINKING, ChatFields, goes_on
from steerplug.langchain.errors import langchain_errors
from steerplug.langchain.fingerprint import fingerprint_model, fingerprint_steering
from steerplug.langchain.local import CONFIG, LocalModel
from steerplug.langchain.messages import PROVIDER, to_chat, to_chunk, to_result
from steerplug.langchain.structured import Schema, structured
from steerplug.langchain.tools import Choice, ToolLike, described, to_choice

if TYPE_CHECKING:
    from steerplug.session import Event, Session, Settings


class ChatSteerplug(LocalModel, ChatFields, BaseChatModel):
    """A local GGUF model that LangChain can chat with, steered per call.

    Weights are loaded at the first reply, and shared by all chat models of this process that name
    the same model and load it the same way; all their replies are made together, in one batch.
    Each reply says in `response_metadata["steering"]` what was applied to it.

    Example:
        ```python
        model = ChatSteerplug(model="smollm2", temperature=0, max_tokens=60)
        model.invoke("What is rain?")
        model.invoke("What is rain?", steering="0.8*weddings")
        model.invoke("What is rain?", config={"configurable": {"steering": "weddings"}})
        warm = model.with_steering("love-hate")
        ```

    The fields of `Arguments` and `ChatFields` are fields of the model, and arguments of each call,
    which may also say those of `Call`. Errors are steerplug's and LangChain's at once: an unknown
    preset is a `PresetNotFound` and a `ModelNotFoundError`.
    """

    model_config = CONFIG
    _also_configured: ClassVar = THINKING

    streaming: bool | None = None
    """Whether `invoke` reports tokens to callbacks as they come; None: when a callback asks."""

    max_retries: int | None = Field(None, exclude=True)
    """Without effect: a local model has no connection to lose. Other chat models take it."""

    api_key: SecretStr | None = Field(None, exclude=True)
    """Without effect: a local model needs no key. Other chat models take it."""

    if TYPE_CHECKING:  # what `Configured` leaves open

        def invoke(  # noqa: D102
            self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
        ) -> AIMessage: ...

        async def ainvoke(  # noqa: D102
            self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
        ) -> AIMessage: ...

    # What is bound stays bound, whatever is bound after it

    def bind(self, **kwargs: Any) -> Bound:  # type: ignore[override]
        """Return the model with arguments for every call."""
        return Bound(bound=self, kwargs=kwargs, config={})

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Bound:
        """Return the model with a config for every call."""
        return Bound(
            bound=self, kwargs={}, config=cast("RunnableConfig", {**(config or {}), **kwargs})
        )

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: Choice = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Bound:
        """Return the model with tools that its replies may call.

        Args:
            tools: functions, LangChain tools, pydantic classes, TypedDicts, or tools in JSON.
            tool_choice: "auto" (or None) leaves it to the model, "none" forbids calls, "any",
                "required" and True ask for at least one, the name of a tool (or the same as
                `{"type": "function", "function": {"name": ...}}`) asks for that one.
            strict: said in the tools' JSON; arguments follow the schema in any case.
            parallel_tool_calls: whether one reply may make several calls; None: where the model
                chooses to call.
            kwargs: other arguments of the calls.

        Raises:
            RequestError: something is no tool, or the choice is none of them.
        """
        with langchain_errors():
            in_json = [described(tool, strict) for tool in tools]
            to_choice(tool_choice, [str(tool.get("function", {}).get("name")) for tool in in_json])
        choice = {"tools": in_json or None, "tool_choice": tool_choice,
                  "parallel_tool_calls": parallel_tool_calls}  # fmt: skip
        return self.bind(**{k: v for k, v in choice.items() if v is not None}, **kwargs)

    def with_structured_output(
        self, schema: Schema | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a chain whose replies follow a schema; see `structured.structured`."""
        with langchain_errors():
            return structured(self, schema, **kwargs)

    # Counting

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[ToolLike] | None = None
    ) -> int:
        """Return how many tokens a chat of `messages` is, with the model's own template."""
        with langchain_errors():
            call = Call.of(self, {"tools": [described(tool) for tool in tools or ()]})
            settings = call.settings()
            session = self._session(call)
            prompt = session.template.prompt(
                to_chat(messages), settings.tools.tools, variables=session.variables(settings),
                parse_special=settings.parse_special, spans=False,
            )  # fmt: skip
            return len(prompt.tokens)

    def _resolve_model_profile(self) -> ModelProfile:
        known = ModelProfile(
            text_inputs=True, image_inputs=False, audio_inputs=False, video_inputs=False,
            pdf_inputs=False, text_outputs=True, tool_calling=True, tool_choice=True,
            tool_call_streaming=True, structured_output=True, temperature=True, open_weights=True,
        )  # fmt: skip
        if self.n_ctx:  # else it is as trained, which only the loaded model tells
            known["max_input_tokens"] = self.n_ctx
            known["max_output_tokens"] = self.max_tokens or self.n_ctx
        return known

    # Generating

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            call = Call.of(self, {**kwargs, "stop": stop})
            session = self._session(call)
            events = list(_events(session, messages, call, whole=True))
            return to_result(events, call.model, session.model.vocab)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with langchain_errors():
            call = Call.of(self, {**kwargs, "stop": stop})
            session = self._session(call)
            with closing(_events(session, messages, call)) as events:
                for event in events:
                    if chunk := to_chunk(event, call.model, session.model.vocab):
                        yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            call = Call.of(self, {**kwargs, "stop": stop})
            session = await run_in_executor(None, self._session, call)
            async with aclosing(_aevents(session, messages, call, whole=True)) as events:
                made = [event async for event in events]
            return to_result(made, call.model, session.model.vocab)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with langchain_errors():
            call = Call.of(self, {**kwargs, "stop": stop})
            session = await run_in_executor(None, self._session, call)
            async with aclosing(_aevents(session, messages, call)) as events:
                async for event in events:
                    if chunk := to_chunk(event, call.model, session.model.vocab):
                        yield chunk

    # What LangChain asks of a model's identity

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> dict[str, Any]:
        chat = {name: getattr(self, name) for name in ChatFields.model_fields}
        return {**super()._identifying_params, **chat}

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        arguments = self._read(kwargs)
        steered = self._with({"steering": self._chosen(arguments)})
        rest = {name: value for name, value in arguments.items() if name != "steering"}
        params = super(ChatSteerplug, steered)._get_invocation_params(stop=stop, **rest)
        return {**params, **steered._fingerprints(rest)}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """Return the key of LangChain's cache: all that a reply depends on, by content."""
        with langchain_errors():
            call = Call.of(self, {**kwargs, "stop": stop})
            settings = {**asdict(call.settings()), "timeout": None}
            content = {
                "_type": self._llm_type,
                "model": fingerprint_model(call.model, self.loading()),
                "steering": fingerprint_steering(call.steering),
                "n_ctx": self.n_ctx,
                **self.loading().shaping,
                **settings,
                "unsteered": sorted(settings["unsteered"]),
                "steered": sorted(settings["steered"]),
            }
        return json.dumps(sorted(content.items()))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        params = super()._get_ls_params(stop=stops if stop is None else stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params


def _events(
    session: "Session", messages: list[BaseMessage], call: Call, *, whole: bool = False
) -> "Generator[Event, None, None]":
    events = session.stream_chat(
        to_chat(messages), call.steering, _settings(messages, call), whole=whole
    )
    return cast("Generator[Event, None, None]", events)


def _aevents(
    session: "Session", messages: list[BaseMessage], call: Call, *, whole: bool = False
) -> "AsyncGenerator[Event, None]":
    return session.astream_chat(
        to_chat(messages), call.steering, _settings(messages, call), whole=whole
    )


def _settings(messages: Sequence[BaseMessage], call: Call) -> "Settings":
    goes = goes_on(messages, call.continue_final_message)
    return replace(call.settings(), continue_final_message=goes)
