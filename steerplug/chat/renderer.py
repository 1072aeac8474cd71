"""A chat as text: the model's own Jinja template, given what it knows and told the rest.

Templates that know tools are given them. For others, tools are told in the system message, calls
are text, and what tools return is said by the user; see `calls`. The template comes from a model
file: it runs sandboxed.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError

from steerplug.chat import sandbox
from steerplug.chat.calls import plain
from steerplug.chat.calls.form import TAGGED
from steerplug.chat.calls.plain import Message
from steerplug.chat.calls.planted import find_form
from steerplug.chat.tool import Tool
from steerplug.engine.vocab import Vocab
from steerplug.errors import ModelError, RequestError


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
        own = find_form(self._written, self._ends_turn) if source else None
        self._takes_tools, self.form = own is not None, own or TAGGED
        self._takes_calls = own is not None and "tool_calls" in (source or "")
        self._takes_results = own is not None and _has_tool_role(source or "")

    def _compile(self) -> Template:
        if not self._source:
            raise ModelError(
                f"{self._model_name} has no chat template, so it cannot chat; "
                "send plain text to be continued, or choose an instruction-tuned GGUF."
            )
        try:
            return sandbox.compile_template(self._source)
        except (TemplateError, RecursionError, MemoryError) as error:
            raise ModelError(
                f"the chat template of {self._model_name} is broken ({_reason(error)}); "
                "choose another GGUF."
            ) from None

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """Return the chat as text, up to where the assistant begins to answer."""
        if not self._takes_tools and tools:
            messages = plain.with_tools(messages, tools, self.form)
        if not self._takes_calls:
            messages = plain.with_calls_as_text(messages, self.form)
        if not self._takes_results:
            messages = plain.with_results_as_turns(messages)
        return self._written(messages, tools if self._takes_tools else None)

    def _written(self, messages: Sequence[Message], tools: Sequence[Tool] | None) -> str:
        """Return the chat as the template itself writes it."""
        template, vocab = self._compiled(), self._vocab
        try:
            return str(sandbox.render(
                template,
                messages=[_plain(message) for message in messages],
                tools=None if tools is None else [_described(tool) for tool in tools],
                add_generation_prompt=True,
                bos_token=vocab.piece(vocab.bos, True).decode("utf-8", "replace"),
                eos_token=vocab.piece(vocab.eos, True).decode("utf-8", "replace"),
            ))
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError,
                AttributeError, RecursionError, MemoryError) as error:
            raise RequestError(
                f"the chat template of {self._model_name} refuses these messages "
                f"({_reason(error)}); change their order or roles."
            ) from None

    def _ends_turn(self, mark: str) -> bool:
        tokens = self._vocab.tokenize(mark, special=True)
        return len(tokens) == 1 and self._vocab.ends_generation(tokens[0])


def _plain(message: Message) -> dict[str, Any]:
    """Return a message as templates know it, its calls in OpenAI's shape."""
    said = dict(message)
    if calls := said.pop("tool_calls", None):
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in calls
        ]
    return said


def _described(tool: Tool) -> dict[str, Any]:
    said = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": said}


def _has_tool_role(source: str) -> bool:
    return any(f"{quote}tool{quote}" in source for quote in "'\"")


def _reason(error: BaseException) -> str:
    """Return one line on what a template ran into."""
    return " ".join(str(error).split())[:200] or type(error).__name__
