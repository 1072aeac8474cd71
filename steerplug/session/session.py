"""Model + steering + chat -> a stream of events: the one thing the doors talk to.

A session holds a loaded model and turns words into values: the text of a mix into steering (built
and cached when first used), messages into tokens. Steering belongs to each call. Every reply ends
with a receipt of what was applied.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, closing
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
from steerplug.engine.model import Model
from steerplug.engine.scope import Phase, Prompt
from steerplug.engine.sizes import N_CTX, N_SEQ
from steerplug.errors import RequestError
from steerplug.fit.progress import Report, silent
from steerplug.model_file import find_model
from steerplug.preset import Origin, Preset
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
        n_ctx: how many tokens a conversation may have.
        n_cells: KV cells, which all conversations share; default: n_ctx.
        n_seq: most sequences, running or kept for later.
        n_threads: threads; default: as many as there are processors at hand.
        store: where built steering is kept; default: the user's cache.
        report: told how far a first build is.

    Raises:
        ModelNotFound, ModelError: the model is not there or cannot be steered.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        n_ctx: int = N_CTX,
        n_cells: int | None = None,
        n_seq: int = N_SEQ,
        n_threads: int | None = None,
        store: Store | None = None,
        report: Report = silent,
    ) -> None:
        self.model = Model(find_model(str(model)))
        self.engine = Engine(
            self.model, n_ctx=n_ctx, n_cells=n_cells, n_seq=n_seq, n_threads=n_threads
        )
        self.template = ChatTemplate.of(self.model)
        self.store = store or Store()
        self.report = report
        self._built: dict[tuple[Origin | None, str, str], Built] = {}
        self._resolver = Resolver(self.model, self.build)
        self._building = threading.RLock()
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
        steered = Resolved(*self.steering(steering))
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
        return self._task(prompt, steered, settings, has_calls=has_calls, begun=begun)

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
        return self._task(prompt, Resolved(*self.steering(steering)), settings)

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
        return Task(request, asked.ingredients, None, Promise())

    def _task(
        self, prompt: Prompt, steering: Resolved, settings: Settings,
        *, has_calls: bool = False, begun: str = "",
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
        self.engine.check(request)
        return Task(request, ingredients, reading, Promise(settings.format, tools, begun, is_free))

    def _events(self, task: Task, whole: bool) -> Iterator[Event]:
        with closing(self.engine.generate(task.request, task.progress, whole=whole)) as pieces:
            for piece in pieces:
                yield from task.take(piece)
        yield from task.finish()
        yield task.reply()

    async def _aevents(self, task: Task, whole: bool) -> AsyncGenerator[Event, None]:
        pieces_of = self.engine.agenerate(task.request, task.progress, whole=whole)
        async with aclosing(pieces_of) as pieces:
            async for piece in pieces:
                for event in task.take(piece):
                    yield event
        for event in task.finish():
            yield event
        yield task.reply()

    def steering(self, words: SteeringWords) -> tuple[Mix, tuple[AppliedPreset, ...]]:
        """Return a mix, and what a receipt says of it; presets are built when first used.

        Raises:
            PresetError, StrengthError, FitError, SteeringError, StoreError: see `errors`.
        """
        return self._resolver.mix(words)

    def build(self, preset: Preset) -> Built:
        """Return the steering of a preset for this model; built once, then kept."""
        key = (preset.origin, preset.name, preset.digest)
        with self._building:
            if key not in self._built:
                self._built[key] = build_preset(
                    preset, self.engine, store=self.store, report=self.report
                )
            return self._built[key]

    def before_fork(self) -> None:
        """Go on: what is being built is built in the parent."""

    def after_fork(self, *, in_child: bool) -> None:
        """Wait for no build in the child that only the parent makes."""
        if in_child:
            self._building = threading.RLock()

    def close(self) -> None:
        """Free the model."""
        self.engine.close()
        self.model.close()


def _unsteered(
    settings: Settings, ingredients: tuple[AppliedPreset, ...]
) -> frozenset[Phase]:
    """Return the phases that steering leaves out: thoughts too, unless somebody asks for them."""
    left = settings.unsteered.union(*(ingredient.unsteered for ingredient in ingredients))
    wanted = settings.steered.union(*(ingredient.steered for ingredient in ingredients))
    return left | (_LEFT_OUT - wanted)


def _last(events: Iterator[Event]) -> Reply:
    *_, reply = events
    assert isinstance(reply, Reply)
    return reply


async def _alast(events: AsyncGenerator[Event, None]) -> Reply:
    async with aclosing(events):
        *_, reply = [event async for event in events]
    assert isinstance(reply, Reply)
    return reply
