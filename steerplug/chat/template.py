"""A chat as tokens: the model's own Jinja template, and exact spans of the assistant's turns.

A span runs from the boundary token (the last token before the assistant's first, which predicts it)
to the last token of the turn's content. It begins where the model began to answer, if the chat
still shows that, and else where the content does. The content is found by rendering the chat once
more with a mark in its place, so the span depends on the chat alone, and what a template trims or
drops is not looked for. A turn that calls tools goes on to the token that ends it. The template
comes from a model file: it runs sandboxed.

Templates that know tools are given them. For others, tools are told in the system message, calls
are text, and what tools return is said by the user; see `calls`.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError

from steerplug.chat import sandbox
from steerplug.chat.calls import plain
from steerplug.chat.calls.form import TAGGED, find_form
from steerplug.chat.calls.plain import Message
from steerplug.chat.tool import Tool, ToolCall
from steerplug.engine.scope import Prompt
from steerplug.engine.vocab import Vocab
from steerplug.errors import ModelError, RequestError, nearest

__all__ = ["ChatTemplate", "Message", "check_messages"]

ROLES = ("system", "user", "assistant", "tool")

_MARK = "\ue000turn\ue001"  # private characters, which no chat holds


class ChatTemplate:
    """The chat template of one model.

    Args:
        source: the Jinja text from the GGUF, or None.
        vocab: the model's vocabulary.
        model_name: how errors name the model.
    """

    def __init__(self, source: str | None, vocab: Vocab, model_name: str) -> None:
        self._source, self._vocab, self._model_name = source, vocab, model_name
        self._compiled = lru_cache(maxsize=1)(self._compile)
        own = find_form(source or "")
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
        template, vocab = self._compiled(), self._vocab
        if not self._takes_tools and tools:
            messages = plain.with_tools(messages, tools, self.form)
        if not self._takes_calls:
            messages = plain.with_calls_as_text(messages, self.form)
        if not self._takes_results:
            messages = plain.with_results_as_turns(messages)
        try:
            return str(sandbox.render(
                template,
                messages=[_plain(message) for message in messages],
                tools=[_described(tool) for tool in tools] if self._takes_tools else None,
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

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        """Return the tokens up to where the assistant answers next, with its earlier turns' spans.

        Args:
            messages: the chat: `role` and `content`; of an assistant also `tool_calls`, a sequence
                of `ToolCall`; of a tool also `tool_call_id` and `name`.
            tools: what the assistant may call.

        Raises:
            RequestError: no messages, an unknown role, or an order the template refuses.
            ModelError: the model has no usable chat template.
        """
        check_messages(messages)
        text = self.render(messages, tools)
        tokens = self._tokenize(text)
        spans = [
            self._span(text, tokens, messages, tools, turn)
            for turn, message in enumerate(messages) if message["role"] == "assistant"
        ]
        has_bos = bool(tokens) and tokens[0] == self._vocab.bos
        return Prompt(tuple(tokens), tuple(spans), has_bos)

    def _tokenize(self, text: str) -> list[int]:
        tokens = self._vocab.tokenize(text, special=True)
        if self._vocab.adds_bos and tokens[:1] != [self._vocab.bos]:
            tokens = [self._vocab.bos, *tokens]
        return tokens

    def _span(
        self, text: str, tokens: list[int], messages: Sequence[Message], tools: Sequence[Tool],
        turn: int,
    ) -> tuple[int, int]:
        marked = [*messages[:turn], {**messages[turn], "content": _MARK}, *messages[turn + 1 :]]
        before, mark, after = self.render(marked, tools).partition(_MARK)
        begin = _common(before, text)
        if turn:
            begin = min(begin, _common(self.render(messages[:turn], tools), text))
        first = self._n_tokens(text[:begin], tokens)
        if messages[turn].get("tool_calls"):
            return max(first - 1, 0), self._end_of_turn(tokens, first)
        end = max(begin, len(text) - _common(after[::-1], text[::-1])) if mark else begin
        return max(first - 1, 0), max(self._n_tokens(text[:end], tokens), first)

    def _end_of_turn(self, tokens: list[int], first: int) -> int:
        """Return where the turn ends that begins at `first`: at the token that ends a reply."""
        ends = self._vocab.ends_generation
        return next((i for i in range(first, len(tokens)) if ends(tokens[i])), first)

    def _n_tokens(self, text: str, tokens: list[int]) -> int:
        """How many of `tokens` lie before the end of `text`, a beginning of what they spell."""
        return _common(self._tokenize(text), tokens)


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


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return how many leading items of `a` and `b` agree."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _reason(error: BaseException) -> str:
    """Return one line on what a template ran into."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def check_messages(messages: Sequence[Message]) -> None:
    """Refuse what is no chat.

    Raises:
        RequestError: the list is empty, or a message lacks a known role or text.
    """
    if not messages:
        raise RequestError("the list of messages is empty; send at least one user message.")
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RequestError(
                f"message {i} has the role {role!r}{nearest(str(role), ROLES) or '.'} "
                f"Roles are {', '.join(ROLES)}."
            )
        if not isinstance(content, str):
            raise RequestError(
                f"message {i} has {type(content).__name__} as content; send text."
            )
        if calls := message.get("tool_calls"):
            _check_calls(i, role, calls)


def _check_calls(i: int, role: object, calls: Sequence[ToolCall]) -> None:
    if role != "assistant":
        raise RequestError(f"message {i} calls tools as {role}; only the assistant calls tools.")
    for call in calls:
        try:
            is_object = isinstance(json.loads(call.arguments), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise RequestError(
                f"message {i} calls {call.name!r} with arguments that are no JSON object; send "
                'such as {"city": "Oslo"}.'
            )
