"""Model + steering + chat -> a stream of events: the one thing the doors talk to.

A session holds a loaded model and turns words into values: the text of a mix into steering, or into
prompts where nothing is compiled; messages into tokens. Steering belongs to each call, and no call
waits for a fit. Every reply ends with a receipt of what was applied.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from steerplug.build import Built, build_preset
from steerplug.chat.calls.answers import ways
from steerplug.chat.calls.grammar import check_tools, reply_grammar, usable
from steerplug.chat.calls.stream import CallStream
from steerplug.chat.messages import Said, to_messages
from steerplug.chat.promise import Promise
from steerplug.chat.template import ChatTemplate, check_messages
from steerplug.chat.tool import AUTO, NONE
from steerplug.engine import fork
from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.engine import Engine, Request
from steerplug.engine.loading import Loading
from steerplug.engine.scope import Phase, Prompt
from steerplug.errors import ContextOverflow, RequestError, SteeringError, SteerplugError
from steerplug.evaluate.bound import shortfall
from steerplug.fit.progress import Report, silent
from steerplug.fit.teacher import prompted_chat
from steerplug.library.recipe import Recipe
from steerplug.preset import Preset
from steerplug.preset.carrier import Carrier
from steerplug.session.activity import Activity
from steerplug.session.carrying import NOT_COMPILED, Carrying
from steerplug.session.compiled import Compiled
from steerplug.session.compiler import Compiler
from steerplug.session.opening import open_model
from steerplug.session.prompts import PromptLengths
from steerplug.session.receipt import AppliedPreset, Reply, Scored
from steerplug.session.resolve import Resolved, Resolver, SteeringWords
from steerplug.session.settings import Settings, Text
from steerplug.session.task import Event, Task
from steerplug.steering.value import Mix
from steerplug.store.store import Store

_SAYS_NOTHING = Settings()
_LEFT_OUT: frozenset[Phase] = frozenset({"thinking"})
_OF_CHATS = (
    "continue_final_message", "chat_template_kwargs", "enable_thinking", "reasoning_effort",
    "thinking_budget_tokens",
)  # fmt: skip


class Session:
    """A loaded model that answers, each call with its own steering.

    Args:
        model: a path, `hf:org/repo/file.gguf`, or an alias such as `smollm2`.
        n_cells: KV cells, which all conversations share; default: n_ctx.
        n_seq: most sequences, running or kept for later; default: as suits the model, see `Engine`.
        store: where built steering is kept; default: the user's cache.
        report: told how far a first build is.
        loading: how the model is loaded, by llama.cpp's names: `n_ctx`, `n_gpu_layers`, `type_k`,
            `lora`, `chat_template` and all others of `engine.loading.Loading`.

    Raises:
        ModelNotFound, ModelError: the model is not there, cannot be steered, or not be loaded so.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        n_cells: int | None = None,
        n_seq: int | None = None,
        store: Store | None = None,
        report: Report = silent,
        **loading: Any,
    ) -> None:
        self.model = open_model(str(model), Loading.of(loading))
        self.engine = Engine(self.model, n_cells=n_cells, n_seq=n_seq)
        self.template = ChatTemplate.of(self.model)
        self.store = store or Store()
        self.report = report
        self._compiled = Compiled(self.engine, self.store)
        self._resolver = Resolver(self.model, self._compiled.find)
        self._prompts = PromptLengths(self.template)
        self._building = threading.RLock()
        self._begin_idle()
        fork.carry(self)

    def chat(
        self,
        messages: Said,
        steering: SteeringWords = None,
        settings: Settings | None = None,
    ) -> Reply:
        """Return the assistant's next message.

        Args:
            messages: the conversation, each with `role` and `content`, in OpenAI's form as well;
                a text is one message of the user.
            steering: how to steer this reply.
            settings: how to generate.

        Raises:
            SteerplugError: see `errors`; nothing is ever left out in silence.
        """
        return _last(self.stream_chat(messages, steering, settings, whole=True))

    def stream_chat(
        self,
        messages: Said,
        steering: SteeringWords = None,
        settings: Settings | None = None,
        *,
        whole: bool = False,
    ) -> Iterator[Event]:
        """Yield the pieces of the assistant's next message, and the reply as the last item.

        If `whole`, the first comes when the last is there, and the reply is made faster.
        """
        return self._events(self._chat_task(messages, steering, settings), whole)

    def complete(
        self, text: Text, steering: SteeringWords = None, settings: Settings | None = None
    ) -> Reply:
        """Return what the model writes after `text`, without any chat template."""
        return _last(self.stream_complete(text, steering, settings, whole=True))

    def stream_complete(
        self, text: Text, steering: SteeringWords = None, settings: Settings | None = None,
        *, whole: bool = False,
    ) -> Iterator[Event]:  # fmt: skip
        """Yield the pieces of a continuation of `text`, and the reply as the last item."""
        return self._events(self._completion_task(text, steering, settings), whole)

    def score(
        self, text: Text, steering: SteeringWords = None, settings: Settings | None = None
    ) -> Scored:
        """Return how likely each token of `text` is in the model as steered, had it written it all.

        So steering of scope `response` acts on it from its first token on.
        """
        task = self._score_task(text, steering, settings)
        return task.scored(text, _last(self._events(task, True)))

    # The same on an event loop

    async def achat(
        self,
        messages: Said,
        steering: SteeringWords = None,
        settings: Settings | None = None,
    ) -> Reply:
        """Return the assistant's next message; see `chat`."""
        return await _alast(self.astream_chat(messages, steering, settings, whole=True))

    async def astream_chat(
        self,
        messages: Said,
        steering: SteeringWords = None,
        settings: Settings | None = None,
        *,
        whole: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Yield what `stream_chat` does; closing the iterator ends the reply."""
        task = await asyncio.to_thread(self._chat_task, messages, steering, settings)
        async with aclosing(self._aevents(task, whole)) as events:
            async for event in events:
                yield event

    async def acomplete(
        self, text: Text, steering: SteeringWords = None, settings: Settings | None = None
    ) -> Reply:
        """Return what the model writes after `text`; see `complete`."""
        return await _alast(self.astream_complete(text, steering, settings, whole=True))

    async def astream_complete(
        self, text: Text, steering: SteeringWords = None, settings: Settings | None = None,
        *, whole: bool = False,
    ) -> AsyncGenerator[Event, None]:  # fmt: skip
        """Yield what `stream_complete` does; closing the iterator ends the reply."""
        task = await asyncio.to_thread(self._completion_task, text, steering, settings)
        async with aclosing(self._aevents(task, whole)) as events:
            async for event in events:
                yield event

    async def ascore(
        self, text: Text, steering: SteeringWords = None, settings: Settings | None = None
    ) -> Scored:
        """Return how likely each token of `text` is; see `score`."""
        task = await asyncio.to_thread(self._score_task, text, steering, settings)
        return task.scored(text, await _alast(self._aevents(task, True)))

    def _chat_task(
        self, messages: Said, steering: SteeringWords, settings: Settings | None
    ) -> Task:
        settings = settings or Settings()
        check_tools(settings.tools)
        tools = usable(settings.tools)
        settings, messages = replace(settings, tools=tools), to_messages(messages)
        check_messages(messages)
        if settings.max_tokens == 0:
            raise RequestError("max_tokens is 0; give at least 1.")
        variables = self.variables(settings)
        steered = self.resolve(steering, settings.carrier)
        n_added = 0
        if teacher := steered.teacher:
            own = messages[0]["content"] if messages[0]["role"] == "system" else None
            n_added = self._prompts.added(teacher, own)
            messages = prompted_chat(teacher, messages)
        goes_on = settings.continue_final_message
        prompt = self.template.prompt(
            messages, tools.tools,
            variables=variables,
            continue_final_message=goes_on,
            parse_special=settings.parse_special,
            spans=bool(steered.mix),
            at_once=settings.thinking_budget_tokens == 0 and not goes_on,
        )  # fmt: skip
        has_calls = bool(tools) or any(message.get("tool_calls") for message in messages)
        begun = self.template.answer_in(messages[-1]["content"]) if goes_on else ""
        return self._task(
            prompt, steered, settings, has_calls=has_calls, begun=begun, n_added=n_added
        )

    def variables(self, settings: Settings) -> Mapping[str, Any]:
        """Return what else the chat template is given.

        Raises:
            RequestError: the settings say two things, or ask for what the template cannot switch.
        """
        given = settings.chat_template_kwargs
        switched = self.template.switched(settings.enable_thinking, settings.reasoning_effort)
        for name, value in switched.items():
            if given.get(name, value) != value:
                raise RequestError(
                    f"chat_template_kwargs says {name}: {given[name]!r:.40}, and enable_thinking "
                    f"or reasoning_effort asks for {value!r:.40}; say one of them."
                )
        return {**switched, **given}

    def _completion_task(
        self, text: Text, steering: SteeringWords, settings: Settings | None
    ) -> Task:
        if not text:
            raise RequestError("the prompt is empty; send at least one word.")
        settings = settings or Settings()
        if settings.tools:
            raise RequestError("plain text that is continued calls no tools; send a chat instead.")
        for name in _OF_CHATS:
            if getattr(settings, name) != getattr(_SAYS_NOTHING, name):
                raise RequestError(f"{name} is for chats, and this is plain text; leave it out.")
        prompt = self._prompt(text, settings.parse_special)
        steered = self.resolve(steering, settings.carrier)
        if steered.teacher:
            raise RequestError(_no_chat(steered))
        return self._task(prompt, steered, settings)

    def _prompt(self, text: Text, parse_special: bool) -> Prompt:
        vocab, thinks = self.model.vocab, self.template.thoughts
        thoughts = replace(thinks.marks, told=False) if thinks else None
        if not isinstance(text, str):  # whoever sends tokens has put BOS there or not
            if wrong := [token for token in text if not isinstance(token, int)]:
                raise RequestError(
                    f"the prompt holds {wrong[0]!r:.80}, which is no token; send a text or the "
                    "numbers of its tokens."
                )
            return Prompt(tuple(text), has_bos=text[0] == vocab.bos, thoughts=thoughts)
        tokens = vocab.tokenize(text, special=parse_special)
        bos = (vocab.bos,) if vocab.adds_bos and tokens[:1] != [vocab.bos] else ()
        has_bos = bool(bos) or tokens[:1] == [vocab.bos]
        return Prompt((*bos, *tokens), has_bos=has_bos, thoughts=thoughts)

    def _score_task(
        self, text: Text, steering: SteeringWords, settings: Settings | None
    ) -> Task:
        asked = self._completion_task(text, steering, settings)
        prompt = asked.request.prompt
        own = ((int(prompt.has_bos), len(prompt.tokens)),)
        request = replace(
            asked.request, prompt=replace(prompt, responses=own), max_tokens=0, scored=True,
            grammar=None, logprobs=asked.request.logprobs or 0,
        )  # fmt: skip
        return Task(request, asked.steered, None, Promise())

    def _task(
        self, prompt: Prompt, steering: Resolved, settings: Settings,
        *, has_calls: bool = False, begun: str = "", n_added: int = 0,
    ) -> Task:  # fmt: skip
        mix, ingredients = steering.mix, steering.ingredients
        grammar = settings.format
        if grammar is None and any(ingredient.format == "json" for ingredient in ingredients):
            grammar = ANY_JSON
        unsteered = _unsteered(settings, ingredients)
        tools, stop, calls, reading = settings.tools, settings.stop, None, None
        must_fit = isinstance(settings.format, Mapping)
        is_free = self.template.form.members is not None
        if has_calls:
            form, only_calls = self.template.form, tools.choice not in (AUTO, NONE)
            known = ways(form, tools, has_format=grammar is not None)
            grammar, calls = reply_grammar(form, tools, grammar, self.model.vocab)
            calls = replace(calls, steered=tools.steered and "constrained" not in unsteered)
            if only_calls:  # what of the reply is a call is told by its marks, and no text stops it
                unsteered, stop, must_fit = unsteered - {"constrained"}, (), True
            if tools and tools.choice != NONE:
                reading = CallStream(known, tools.tools, only_calls=only_calls, begun=begun)
        request = Request(
            prompt, mix, settings.sampling, stop, settings.max_tokens, grammar, unsteered,
            settings.logprobs, settings.timeout, settings.partition, calls, settings.most_thought,
            must_fit, tells_end=settings.tells_end,
        )  # fmt: skip
        try:
            self.engine.check(request)
        except ContextOverflow as error:
            if not n_added:
                raise
            names = [applied.name for applied in ingredients if applied.carrier != "steering"]
            raise ContextOverflow(_too_long(names, n_added, error)) from None
        promise = Promise(settings.format, tools, begun, is_free)
        return Task(request, steering, reading, promise, n_added)

    def _events(self, task: Task, whole: bool) -> Iterator[Event]:
        generated = self.engine.generate(task.request, task.progress, whole=whole)
        with self._activity.reply(), closing(generated) as pieces:
            for piece in pieces:
                yield from task.take(piece)
        yield from task.finish()
        yield task.reply()

    async def _aevents(self, task: Task, whole: bool) -> AsyncGenerator[Event, None]:
        generated = self.engine.agenerate(task.request, task.progress, whole=whole)
        with self._activity.reply():
            async with aclosing(generated) as pieces:
                async for piece in pieces:
                    for event in task.take(piece):
                        yield event
        for event in task.finish():
            yield event
        yield task.reply()

    def steering(self, words: SteeringWords) -> tuple[Mix, tuple[AppliedPreset, ...]]:
        """Return the steering that words mean, and what a receipt says of it; nothing is fitted.

        Raises:
            PresetError, StrengthError, FitError, SteeringError, StoreError: see `errors`.
        """
        resolved = self.resolve(words, "steering")
        return resolved.mix, resolved.ingredients

    def resolve(self, words: SteeringWords, carrier: Carrier = "auto") -> Resolved:
        """Return what presets are for a reply: steering, prompts, or both; nothing is fitted.

        Raises:
            PresetError, StrengthError, FitError, SteeringError, StoreError: see `errors`.
            RequestError: a preset cannot have that carrier.
        """
        return self._resolver.resolve(words, carrier)

    def compiled(self, preset: Preset) -> Built | None:
        """Return the steering of a preset if it is compiled for this model; nothing is fitted.

        Raises:
            SteeringError: it is damaged, or not what its name says.
            FitError: it does nothing on this model.
        """
        return self._compiled.find(preset)

    def carrying(self, preset: Preset) -> Carrying:
        """Return what carries a preset on this model now; errors are those of `compiled`."""
        built = self.compiled(preset)
        reason = shortfall(built.identity.fidelity) if built else NOT_COMPILED
        if preset.teacher is None:
            return Carrying(built, reason and f"{reason}, and no prompt can carry a contrast", None)
        try:
            return Carrying(built, reason, self._prompts.added(preset.teacher, None))
        except SteerplugError as error:  # no chat template, or one that refuses the chat
            why = str(error).removesuffix(".")
            return Carrying(built, reason and f"{reason}, and no prompt can carry it: {why}", None)

    def build(self, preset: Preset) -> Built:
        """Return the steering of a preset for this model, which is fitted if it is not compiled."""
        with self._building:
            built = None
            with suppress(SteeringError):  # what is damaged in the store is made again
                built = self._compiled.find(preset)
            return built or build_preset(
                preset, self.engine, store=self.store, report=self.report
            )

    def compile(self, words: str) -> None:
        """Have the presets of a mix compiled in idle time, as far as they are not; see `compiler`.

        Raises:
            PresetError: the words are no mix, or a preset is not there or not good.
        """
        for ingredient, file in Recipe.read(words).parts:
            if file.preset is not None and self.compiled(file.preset) is None:
                self.compiler.ask(ingredient.reference)

    def _begin_idle(self) -> None:
        self._activity = Activity(lambda: self.compiler.pause())
        order = {
            "model": str(self.model.path), "loading": vars(self.model.loading),
            "store": str(self.store.folder),
        }  # fmt: skip
        self.compiler = Compiler(order, self._activity)

    def before_fork(self) -> None:
        """Go on: what is being built is built in the parent."""

    def after_fork(self, *, in_child: bool) -> None:
        """Wait for no build in the child that only the parent makes."""
        if in_child:
            self._building = threading.RLock()
            self._begin_idle()

    def close(self) -> None:
        """Free the model; compiling ends."""
        self.compiler.close()
        self.engine.close()
        self.model.close()


def _unsteered(
    settings: Settings, ingredients: tuple[AppliedPreset, ...]
) -> frozenset[Phase]:
    """Return the phases that steering leaves out: thoughts too, unless somebody asks for them."""
    left = settings.unsteered.union(*(ingredient.unsteered for ingredient in ingredients))
    wanted = settings.steered.union(*(ingredient.steered for ingredient in ingredients))
    return left | (_LEFT_OUT - wanted)


def _no_chat(steered: Resolved) -> str:
    first = next(one for one in steered.ingredients if one.carrier != "steering")
    why = f" ({first.reason})" if first.reason else ""
    return (
        f"`{first.name}` is carried by its prompt here{why}, and plain text that is continued has "
        f"no place for one; send a chat, or run `steerplug build {first.name} -m MODEL`."
    )


def _too_long(names: Sequence[str], n_added: int, error: ContextOverflow) -> str:
    told = " and ".join(f"`{name}`" for name in names)
    return (
        f"{n_added} tokens of the prompt are those of {told}, carried by prompt until `steerplug "
        f"build`; {error}"
    )


def _last(events: Iterator[Event]) -> Reply:
    *_, reply = events
    assert isinstance(reply, Reply)
    return reply


async def _alast(events: AsyncGenerator[Event, None]) -> Reply:
    async with aclosing(events):
        *_, reply = [event async for event in events]
    assert isinstance(reply, Reply)
    return reply
