"""A chat as text: the model's own Jinja template, given what it reads and told the rest.

What a template shows is given to it in the form that it reads, see `reading`. What it does not show
is told another way: tools in the system message, calls as text, what tools return by the user, what
the system says by the user as well. Only what the template refuses as it is comes in another order,
see `turns`. The template comes from a model file: it runs sandboxed.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from itertools import chain
from types import MappingProxyType
from typing import Any

from jinja2 import Template, TemplateError

from steerplug.chat import sandbox
from steerplug.chat.calls import plain
from steerplug.chat.calls.form import TAGGED
from steerplug.chat.calls.plain import Message
from steerplug.chat.calls.planted import find_form
from steerplug.chat.dropped import dropped
from steerplug.chat.reading import Reading, read
from steerplug.chat.thoughts.form import Replayed, Thoughts
from steerplug.chat.thoughts.planted import find_thoughts, reads_effort
from steerplug.chat.tool import Tool
from steerplug.chat.turns import (
    orders,
    with_system_first,
    with_system_told_by_users,
    with_words_apart,
)
from steerplug.chat.values import Forms, message_value, thoughts_of, tool_values
from steerplug.engine.vocab import Vocab
from steerplug.errors import ModelError, RequestError

NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})

_TAKEN = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")


class Renderer:
    """What writes chats for one model.

    Args:
        source: the Jinja text from the GGUF, or None.
        vocab: the model's vocabulary.
        model_name: how errors name the model.
    """

    def __init__(self, source: str | None, vocab: Vocab, model_name: str) -> None:
        self._source, self._vocab, self._model_name = source, vocab, model_name
        self._compiled = lru_cache(maxsize=1)(self._compile)
        own = find_form(self._written, self._ends_turn, self._is_token) if source else None
        self._has_own_form, self.form = own is not None, own or TAGGED

    @cached_property
    def reading(self) -> Reading:
        """What the template reads."""
        return read(self._filled)

    @cached_property
    def thoughts(self) -> Thoughts | None:
        """How the model thinks; None where nothing tells that it does."""
        return find_thoughts(self._planted, self._vocab)

    @cached_property
    def reads_effort(self) -> bool:
        """Whether the template reads `reasoning_effort`."""
        return reads_effort(self._planted)

    def _planted(
        self, messages: Sequence[Message], replayed: Replayed, answers: bool,
        variables: Mapping[str, Any],
    ) -> str | None:  # fmt: skip
        forms = replace(
            self.reading.forms, thoughts="parts" if replayed == "parts" else "fields"
        )
        with suppress(RequestError):
            return self._filled(
                messages, (), forms, {**variables, "add_generation_prompt": answers}
            )
        return None

    def _compile(self) -> Template:
        if not self._source:
            raise ModelError(
                f"{self._model_name} has no chat template, so it cannot chat; "
                "send plain text to be continued, or choose an instruction-tuned GGUF."
            )
        return _compiled(
            self._source, f"the chat template of {self._model_name} is broken",
            "choose another GGUF, or give a chat_template",
        )  # fmt: skip

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *,
        add_generation_prompt: bool = True, variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> str:
        """Return the chat as text.

        Args:
            messages: the chat, as `ChatTemplate.prompt` takes it.
            tools: what the assistant may call.
            add_generation_prompt: whether the text goes on to where the assistant begins to answer.
            variables: what else the template is given, such as `enable_thinking`.

        Raises:
            RequestError: the template refuses the chat or does not show it, or a variable is not
                the caller's to give.
            ModelError: the model has no usable chat template.
        """
        _check_variables(variables)
        self._check_assistant(messages)
        reading = self.reading
        shown = tools if self._has_own_form and reading.tools else ()
        if tools and not shown:
            messages = plain.with_tools(messages, tools, self.form)
        chat = self._told(messages, bool(tools), bool(shown))
        settings = {**variables, "add_generation_prompt": add_generation_prompt}
        forms = reading.forms
        if any(map(thoughts_of, messages)) and self.thoughts:
            forms = replace(
                forms, thoughts="parts" if self.thoughts.replayed == "parts" else "fields"
            )
        write = partial(self._filled, tools=shown, forms=forms, settings=settings)
        return self._whole(chat, partial(self._accepted, write=write))

    def _told(
        self, messages: Sequence[Message], has_tools: bool, has_shown: bool
    ) -> Sequence[Message]:
        """Return the messages with what the template does not show told another way.

        Args:
            messages: the chat.
            has_tools: whether it has tools.
            has_shown: whether the template is to show them.
        """
        reading = self.reading
        is_own = self._has_own_form or not has_tools  # what is forced is what the model saw
        if not (is_own and reading.calls):
            messages = plain.with_calls_as_text(messages, self.form)
        elif not reading.calls_beside_text:
            messages = with_words_apart(messages)
        if not (is_own and reading.results and (reading.calls or reading.tools)):
            messages = plain.with_results_as_turns(messages)
        if not (reading.system_with_tools if has_shown else reading.system):
            return with_system_told_by_users(messages)
        return messages if reading.later_system else with_system_first(messages)

    def _whole(self, messages: Sequence[Message], write: Callable[[Sequence[Message]], str]) -> str:
        """Return the chat as text, with what the template drops from this one told by the user."""
        text = write(messages)
        roles = {messages[i]["role"] for i in dropped(messages, text, write)}
        if not roles:
            return text
        turns = plain.with_results_as_turns(messages) if "tool" in roles else messages
        turns = with_system_told_by_users(turns) if "system" in roles else turns
        text = write(turns)
        for i in dropped(turns, text, write):
            raise self._loss(i, turns[i])
        return text

    def _accepted(
        self, messages: Sequence[Message], write: Callable[[Sequence[Message]], str]
    ) -> str:
        """Return the chat as text, in another order if the template refuses this one."""
        try:
            return write(messages)
        except RequestError:
            worded = plain.with_results_as_turns(plain.with_calls_as_text(messages, self.form))
            for turns in chain(orders(messages), orders(worded)):
                with suppress(RequestError):
                    return write(turns)
            raise

    def _filled(
        self, messages: Sequence[Message], tools: Sequence[Tool], forms: Forms,
        settings: Mapping[str, Any] = MappingProxyType({"add_generation_prompt": True}),
    ) -> str:
        """Return what the template itself makes of the chat."""
        template, limit = self._compiled(), sandbox.max_steps(len(messages))
        values = {
            "documents": None,
            **settings,
            "messages": [message_value(message, forms) for message in messages],
            "tools": tool_values(tools, forms),
            "bos_token": self._text(self._vocab.bos),
            "eos_token": self._text(self._vocab.eos),
        }
        try:
            return sandbox.render(template, values, limit)
        except sandbox.EndlessError:
            raise ModelError(
                f"the chat template of {self._model_name} takes more than {limit} steps for "
                f"{len(messages)} messages; send fewer, or choose another GGUF."
            ) from None
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError,
                AttributeError, RecursionError, MemoryError) as error:
            raise RequestError(
                f"the chat template of {self._model_name} refuses these messages "
                f"({_reason(error)}); change their order or roles."
            ) from None

    def _written(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """Return a chat with tools as the template itself writes it, in the forms that it reads."""
        return self._filled(messages, tools, self.reading.forms)

    def _ends_turn(self, mark: str) -> bool:
        tokens = self._vocab.tokenize(mark, special=True)
        return len(tokens) == 1 and self._vocab.ends_generation(tokens[0])

    def _is_token(self, mark: str) -> bool:
        return len(self._vocab.tokenize(mark, special=True)) == 1

    def _text(self, token: int) -> str:
        return self._vocab.piece(token, True).decode("utf-8", "replace")

    def _check_assistant(self, messages: Sequence[Message]) -> None:
        """Refuse what the assistant said where the template shows that in no form."""
        for i, message in enumerate(messages):
            if message["role"] == "assistant" and message["content"] and not self.reading.assistant:
                raise self._loss(i, message)

    def _loss(self, i: int, message: Message) -> RequestError:
        return RequestError(
            f"the chat template of {self._model_name} drops message {i}, of the role "
            f"{message['role']!r}; leave it out, or choose another GGUF."
        )


def check_template(source: str) -> None:
    """Refuse a chat template that somebody gives if it is no Jinja.

    Raises:
        ModelError: what is wrong with it.
    """
    _compiled(source, "chat_template does not parse", "correct it, or leave it out")


def _compiled(source: str, wrong: str, cure: str) -> Template:
    try:
        return sandbox.compile_template(source)
    except (TemplateError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise ModelError(f"{wrong} ({_reason(error)}{where}); {cure}.") from None


def _check_variables(variables: Mapping[str, Any]) -> None:
    if taken := [name for name in _TAKEN if name in variables]:
        raise RequestError(
            f"the template variable {taken[0]!r} is set by the chat itself; leave it out."
        )


def _reason(error: BaseException) -> str:
    """Return one line on what a template ran into."""
    return " ".join(str(error).split())[:200] or type(error).__name__
