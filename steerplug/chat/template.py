"""A chat as tokens: the model's own Jinja template, and exact spans of the assistant's turns.

A span runs from the boundary token (the last token before the assistant's first, which predicts it)
to the last token of the turn's content. It begins where the model began to answer, if the chat
still shows that, and else where the content does. The content is found by rendering the chat once
more with a mark in its place, so the span depends on the chat alone, and what a template trims or
drops is not looked for. A turn that calls tools goes on to the token that ends it. How a chat is
written is the business of `renderer`.
"""

from collections.abc import Sequence
from typing import Any

from steerplug.chat.calls.plain import Message
from steerplug.chat.encoding import is_object
from steerplug.chat.renderer import Renderer
from steerplug.chat.tool import Tool, ToolCall
from steerplug.engine.scope import Prompt
from steerplug.engine.vocab import Vocab
from steerplug.errors import RequestError, nearest

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
        self._vocab = vocab
        self._renderer = Renderer(source, vocab, model_name)
        self.form = self._renderer.form
        self.render = self._renderer.render

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


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return how many leading items of `a` and `b` agree."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


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
        if not is_object(call.arguments):
            raise RequestError(
                f"message {i} calls {call.name!r} with arguments that are no JSON object; send "
                'such as {"city": "Oslo"}.'
            )
