"""Model + steering + chat -> a stream of events: the one thing the doors talk to.

A session holds a loaded model and turns words into values: the text of a mix into steering, or into
prompts where nothing is compiled; messages into tokens. Steering belongs to each call, and no call
waits for a fit. Every reply ends with a receipt of what was applied.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, closing, suppress
from pathlib import Path
from typing import Any

from steerplug.build import Built, build_preset
from steerplug.chat.messages import ChatInput
from steerplug.chat.template import ChatTemplate
from steerplug.engine import fork
from steerplug.engine.engine import Engine
from steerplug.engine.loading import Loading
from steerplug.errors import SteeringError, SteerplugError
from steerplug.fit.progress import Report, silent
from steerplug.library.recipe import Recipe
from steerplug.preset import Preset
from steerplug.preset.carrier import Carrier
from steerplug.session.activity import Activity
from steerplug.session.asking import Asking
from steerplug.session.carrying import Carrying, why_prompt
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


class Session:
    """A loaded model that answers, each call with its own steering.

    Args:
        model: a path, `hf:org/repo/file.gguf`, or an alias such as `smollm2`.
        n_cells: KV cells, which all conversations share; default: n_ctx.
        n_seq: most sequences, running or kept for later; default: as suits the model, see `Engine`.
        store: where built steering is kept; default: the user's cache.
        report: told how far a first build is.
        activity: that of sessions which compile only while none of them replies; default: its own.
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
        activity: Activity | None = None,
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
        self._begin_idle(activity or Activity())
        fork.carry(self)

    def chat(
        self,
        messages: ChatInput,
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
        messages: ChatInput,
        steering: SteeringWords = None,
        settings: Settings | None = None,
        *,
        whole: bool = False,
    ) -> Iterator[Event]:
        """Yield the pieces of the assistant's next message, and the reply as the last item.

        If `whole`, the first comes when the last is there, and the reply is made faster.
        """
        return self._events(self._asking.chat(messages, steering, settings), whole)

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
        return self._events(self._asking.completion(text, steering, settings), whole)

    def score(
        self, text: Text, steering: SteeringWords = None, settings: Settings | None = None
    ) -> Scored:
        """Return how likely each token of `text` is in the model as steered, had it written it all.

        So steering of scope `response` acts on it from its first token on.
        """
        task = self._asking.score(text, steering, settings)
        return task.scored(text, _last(self._events(task, True)))

    # The same on an event loop

    async def achat(
        self,
        messages: ChatInput,
        steering: SteeringWords = None,
        settings: Settings | None = None,
    ) -> Reply:
        """Return the assistant's next message; see `chat`."""
        return await _alast(self.astream_chat(messages, steering, settings, whole=True))

    async def astream_chat(
        self,
        messages: ChatInput,
        steering: SteeringWords = None,
        settings: Settings | None = None,
        *,
        whole: bool = False,
    ) -> AsyncGenerator[Event, None]:
        """Yield what `stream_chat` does; closing the iterator ends the reply."""
        task = await asyncio.to_thread(self._asking.chat, messages, steering, settings)
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
        task = await asyncio.to_thread(self._asking.completion, text, steering, settings)
        async with aclosing(self._aevents(task, whole)) as events:
            async for event in events:
                yield event

    async def ascore(
        self, text: Text, steering: SteeringWords = None, settings: Settings | None = None
    ) -> Scored:
        """Return how likely each token of `text` is; see `score`."""
        task = await asyncio.to_thread(self._asking.score, text, steering, settings)
        return task.scored(text, await _alast(self._aevents(task, True)))

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

    @property
    def _asking(self) -> Asking:
        return Asking(self.engine, self.template, self._resolver, self._prompts)

    def variables(self, settings: Settings) -> Mapping[str, Any]:
        """Return what else the chat template is given.

        Raises:
            RequestError: the settings say two things, or ask for what the template cannot switch.
        """
        return self._asking.variables(settings)

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
        reason = why_prompt(preset, built)
        if preset.teacher is None:
            return Carrying(built, reason and f"{reason}, and no prompt can carry a contrast", None)
        try:
            return Carrying(built, reason, self._prompts.added(preset.teacher, None))
        except SteerplugError as error:  # no chat template, or one that refuses the chat
            why = str(error).removesuffix(".")
            return Carrying(built, reason and f"{reason}, and no prompt can carry it: {why}", None)

    def build(self, preset: Preset, *, quick: bool = False) -> Built:
        """Return the steering of a preset for this model, which is fitted if it is not compiled.

        Args:
            preset: what to build.
            quick: whether what a quick fit made, or makes, will do; else it is fitted in full.
        """
        with self._building:
            built = None
            with suppress(SteeringError):  # what is damaged in the store is made again
                built = self._compiled.find(preset)
            if built and (quick or not built.is_quick):
                return built
            return build_preset(
                preset, self.engine, store=self.store, near=built is None, quick=quick,
                report=self.report,
            )  # fmt: skip

    def compile(self, words: str, *, again: bool = False) -> None:
        """Have the presets of a mix compiled in idle time, as far as they are not; see `compiler`.

        Args:
            words: the mix.
            again: try what failed before as well.

        Raises:
            PresetError: the words are no mix, or a preset is not there or not good.
        """
        known = {} if again else self.compiler.jobs
        for ingredient, file in Recipe.read(words).parts:
            name, preset = ingredient.reference, file.preset
            if preset is None or name in known:
                continue
            built = self.compiled(preset)
            if built is None or built.is_quick:
                self.compiler.ask(name)

    def _begin_idle(self, activity: Activity) -> None:
        self._activity = activity
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
            self._begin_idle(Activity())

    def close(self) -> None:
        """Free the model; compiling ends."""
        self.compiler.close()
        self.engine.close()
        self.model.close()


def _last(events: Iterator[Event]) -> Reply:
    *_, reply = events
    assert isinstance(reply, Reply)
    return reply


async def _alast(events: AsyncGenerator[Event, None]) -> Reply:
    async with aclosing(events):
        *_, reply = [event async for event in events]
    assert isinstance(reply, Reply)
    return reply
