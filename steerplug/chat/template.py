"""A chat as tokens: the model's own Jinja template, and exact spans of the assistant's turns.

A span runs from the boundary token (the last token before the assistant's first, which predicts it)
to the last token of the turn's content. It begins where the model began to answer, if the chat
still shows that, and else where the content does. The content is found by rendering the chat once
more with a mark in its place, so the span depends on the chat alone, and what a template trims or
drops is not looked for. The template comes from a model file: it runs sandboxed.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError

from steerplug.chat import sandbox
from steerplug.engine.scope import Prompt
from steerplug.engine.vocab import Vocab
from steerplug.errors import ModelError, RequestError, nearest

Message = Mapping[str, str]
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

    def render(self, messages: Sequence[Message]) -> str:
        """Return the chat as text, up to where the assistant begins to answer."""
        template, vocab = self._compiled(), self._vocab
        try:
            return str(sandbox.render(
                template,
                messages=[dict(message) for message in messages],
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

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """Return the tokens up to where the assistant answers next, with its earlier turns' spans.

        Raises:
            RequestError: no messages, an unknown role, or an order the template refuses.
            ModelError: the model has no usable chat template.
        """
        check_messages(messages)
        text = self.render(messages)
        tokens = self._tokenize(text)
        spans = [
            self._span(text, tokens, messages, turn)
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
        self, text: str, tokens: list[int], messages: Sequence[Message], turn: int
    ) -> tuple[int, int]:
        marked = [*messages[:turn], {**messages[turn], "content": _MARK}, *messages[turn + 1 :]]
        before, mark, after = self.render(marked).partition(_MARK)
        begin = _common(before, text)
        if turn:
            begin = min(begin, _common(self.render(messages[:turn]), text))
        end = max(begin, len(text) - _common(after[::-1], text[::-1])) if mark else begin
        first = self._n_tokens(text[:begin], tokens)
        return max(first - 1, 0), max(self._n_tokens(text[:end], tokens), first)

    def _n_tokens(self, text: str, tokens: list[int]) -> int:
        """How many of `tokens` lie before the end of `text`, a beginning of what they spell."""
        return _common(self._tokenize(text), tokens)


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
