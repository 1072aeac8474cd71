"""What a caller asks for becomes a task: words, messages and settings as a request of the engine.

    chat          messages, with what presets' prompts add   -> tokens, spans, forms of calls
    completion    plain text                                 -> tokens
    score         the same, none of which is generated

What cannot be obeyed is refused here, before anything is decoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steerplug.chat.calls.answers import ways
from steerplug.chat.calls.grammar import check_tools, reply_grammar, usable
from steerplug.chat.calls.stream import CallStream
from steerplug.chat.checking import check_messages
from steerplug.chat.messages import ChatInput, to_messages
from steerplug.chat.promise import Promise
from steerplug.chat.template import ChatTemplate
from steerplug.chat.tool import AUTO, NONE
from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.engine import Engine, Request
from steerplug.engine.scope import Phase, Prompt
from steerplug.errors import ContextOverflow, RequestError
from steerplug.fit.teacher import prompted_chat
from steerplug.session.carrying import NOT_COMPILED
from steerplug.session.prompts import PromptLengths
from steerplug.session.receipt import AppliedPreset
from steerplug.session.resolve import Resolved, Resolver, SteeringWords
from steerplug.session.settings import Settings, Text
from steerplug.session.task import Task

_SAYS_NOTHING = Settings()
_LEFT_OUT: frozenset[Phase] = frozenset({"thinking"})
_OF_CHATS = (
    "continue_final_message", "chat_template_kwargs", "enable_thinking", "reasoning_effort",
    "thinking_budget_tokens",
)  # fmt: skip


class Asking:
    """Makes tasks for one model.

    Args:
        engine: the model.
        template: how it reads chats.
        resolver: what presets are on it.
        prompts: how many tokens presets' prompts add.
    """

    def __init__(
        self, engine: Engine, template: ChatTemplate, resolver: Resolver, prompts: PromptLengths
    ) -> None:
        self._engine, self._template = engine, template
        self._vocab = engine.model.vocab
        self._resolver, self._prompts = resolver, prompts

    def chat(
        self, messages: ChatInput, steering: SteeringWords, settings: Settings | None
    ) -> Task:
        """Return the task of the assistant's next message; errors are those of `Session.chat`."""
        settings = settings or Settings()
        check_tools(settings.tools)
        tools = usable(settings.tools)
        settings, messages = replace(settings, tools=tools), to_messages(messages)
        check_messages(messages)
        if settings.max_tokens == 0:
            raise RequestError("max_tokens is 0; give at least 1.")
        variables = self.variables(settings)
        steered = self._resolver.resolve(steering, settings.carrier)
        n_added = 0
        if teacher := steered.teacher:
            own = messages[0]["content"] if messages[0]["role"] == "system" else None
            n_added = self._prompts.added(teacher, own)
            messages = prompted_chat(teacher, messages)
        goes_on = settings.continue_final_message
        prompt = self._template.prompt(
            messages, tools.tools,
            variables=variables,
            continue_final_message=goes_on,
            parse_special=settings.parse_special,
            spans=bool(steered.mix),
            at_once=settings.thinking_budget_tokens == 0 and not goes_on,
        )  # fmt: skip
        has_calls = bool(tools) or any(message.get("tool_calls") for message in messages)
        begun = self._template.answer_in(messages[-1]["content"]) if goes_on else ""
        return self._task(
            prompt, steered, settings, has_calls=has_calls, begun=begun, n_added=n_added
        )

    def variables(self, settings: Settings) -> Mapping[str, Any]:
        """Return what else the chat template is given.

        Raises:
            RequestError: the settings say two things, or ask for what the template cannot switch.
        """
        kwargs = settings.chat_template_kwargs
        switched = self._template.switched(settings.enable_thinking, settings.reasoning_effort)
        for name, value in switched.items():
            if kwargs.get(name, value) != value:
                raise RequestError(
                    f"chat_template_kwargs says {name}: {kwargs[name]!r:.40}, and enable_thinking "
                    f"or reasoning_effort asks for {value!r:.40}; set only one of them."
                )
        return {**switched, **kwargs}

    def completion(
        self, text: Text, steering: SteeringWords, settings: Settings | None
    ) -> Task:
        """Return the task of what the model writes after a text."""
        if not text:
            raise RequestError("the prompt is empty; send at least one word.")
        settings = settings or Settings()
        if settings.tools:
            raise RequestError("plain text that is continued calls no tools; send a chat instead.")
        for name in _OF_CHATS:
            if getattr(settings, name) != getattr(_SAYS_NOTHING, name):
                raise RequestError(f"{name} is for chats, and this is plain text; leave it out.")
        prompt = self._prompt(text, settings.parse_special)
        steered = self._resolver.resolve(steering, settings.carrier)
        if steered.teacher:
            raise RequestError(_no_chat(steered))
        return self._task(prompt, steered, settings)

    def _prompt(self, text: Text, parse_special: bool) -> Prompt:
        vocab, thinks = self._vocab, self._template.thoughts
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

    def score(
        self, text: Text, steering: SteeringWords, settings: Settings | None
    ) -> Task:
        """Return the task of finding how likely each token of a text is."""
        asked = self.completion(text, steering, settings)
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
        is_free = self._template.form.members is not None
        if has_calls:
            form, only_calls = self._template.form, tools.choice not in (AUTO, NONE)
            known = ways(form, tools, has_format=grammar is not None)
            grammar, calls = reply_grammar(form, tools, grammar, self._vocab)
            calls = replace(calls, steered=tools.steered and "constrained" not in unsteered)
            if only_calls:  # what of the reply is a call is told by its marks, and no text stops it
                unsteered, stop, must_fit = unsteered - {"constrained"}, (), True
            if tools and tools.choice != NONE:
                reading = CallStream(known, tools.tools, only_calls=only_calls, begun=begun)
        request = Request(
            prompt, mix, settings.sampling, stop, settings.max_tokens, grammar, unsteered,
            settings.logprobs, settings.timeout, settings.partition, calls, settings.most_thought,
            must_fit, tells_end=settings.tells_end, tells_moved=settings.tells_moved,
        )  # fmt: skip
        try:
            self._engine.check(request)
        except ContextOverflow as error:
            if not n_added:
                raise
            raise ContextOverflow(_too_long(ingredients, n_added, error)) from None
        promise = Promise(settings.format, tools, begun, is_free)
        return Task(request, steering, reading, promise, n_added)


def _unsteered(
    settings: Settings, ingredients: tuple[AppliedPreset, ...]
) -> frozenset[Phase]:
    """Return the phases that steering leaves out: thoughts too, unless somebody asks for them."""
    left = settings.unsteered.union(*(ingredient.unsteered for ingredient in ingredients))
    wanted = settings.steered.union(*(ingredient.steered for ingredient in ingredients))
    return left | (_LEFT_OUT - wanted)


def _no_chat(steered: Resolved) -> str:
    first = next(each for each in steered.ingredients if each.carrier != "steering")
    why = f" ({first.reason})" if first.reason else ""
    return (
        f"`{first.name}` is carried by its prompt here{why}, and plain text that is continued has "
        f"no place for one; send a chat, or run `steerplug build {first.name} -m MODEL`."
    )


def _too_long(
    ingredients: Sequence[AppliedPreset], n_added: int, error: ContextOverflow
) -> str:
    """Say whose prompts take room, and which of them need not once they are compiled."""
    prompted = [applied for applied in ingredients if applied.carrier != "steering"]
    told = " and ".join(f"`{applied.name}`" for applied in prompted)
    builds = " and ".join(
        f"`steerplug build {applied.name} -m MODEL`"
        for applied in prompted if applied.reason == NOT_COMPILED
    )  # fmt: skip
    until = f" until {builds}" if builds else ""
    return f"{n_added} tokens of the prompt are those of {told}, carried by prompt{until}; {error}"
