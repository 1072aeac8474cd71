"""A chat as tokens: the model's own Jinja template, and exact spans of the assistant's turns.

A span runs from the boundary token (the last token before the assistant's first, which predicts it)
to the last token of the turn's content. It begins where the model began to answer, if the chat
still shows that, and else where the content does; it depends on the chat alone, and what a template
trims or drops is not looked for. A turn that calls tools goes on to the token that ends it. How a
chat is written is the business of `renderer`, where its messages stand in it that of `outline`.

Control tokens are what the template writes; in what people wrote they are text, see `pasted`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

from steerplug.chat.calls.plain import Message
from steerplug.chat.common import n_common
from steerplug.chat.encoding import is_object
from steerplug.chat.outline import Outline, Write
from steerplug.chat.pasted import Chat, Pasted, escaped, unused_characters
from steerplug.chat.renderer import NO_VARIABLES, Renderer
from steerplug.chat.spelling import Spelling
from steerplug.chat.thoughts.form import Thoughts, switched
from steerplug.chat.thoughts.planted import KNOWN
from steerplug.chat.tool import Tool, ToolCall
from steerplug.chat.values import thoughts_of
from steerplug.engine.model import Model
from steerplug.engine.scope import Prompt
from steerplug.engine.thought_marks import MARK, ThoughtMarks
from steerplug.engine.vocab import Vocab
from steerplug.errors import ModelError, RequestError, nearest

__all__ = ["ChatTemplate", "Message", "check_messages"]

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class _Written:
    """A chat as text.

    Args:
        text: up to where the reply goes on.
        begin: where the reply begins, which may have begun already.
        earlier: the messages before it.
        outline: where they stand, if that was looked for.
    """

    text: str
    begin: int
    earlier: Sequence[Message]
    outline: Outline | None


class ChatTemplate:
    """The chat template of one model.

    Args:
        source: the Jinja text from the GGUF, or None.
        vocab: the model's vocabulary.
        model_name: how errors name the model.
        tool_source: the Jinja text for chats with tools, where the GGUF has one besides.
    """

    def __init__(
        self, source: str | None, vocab: Vocab, model_name: str, tool_source: str | None = None
    ) -> None:
        self._vocab, self._model_name = vocab, model_name
        self._renderer = Renderer(source, vocab, model_name)
        self._with_tools = self._renderer
        if tool_source:
            self._with_tools = Renderer(tool_source, vocab, model_name)
        self.form = self._with_tools.form

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *,
        add_generation_prompt: bool = True, variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> str:  # fmt: skip
        """Return the chat as text; see `Renderer.render`."""
        has_tools = tools or any(message.get("tool_calls") for message in messages)
        renderer = self._with_tools if has_tools else self._renderer
        return renderer.render(
            messages, tools, add_generation_prompt=add_generation_prompt, variables=variables
        )

    @property
    def thoughts(self) -> Thoughts | None:
        """How the model thinks; None where nothing tells that it does, or no template can."""
        with suppress(ModelError):  # who chats is told of it
            return self._renderer.thoughts
        return None

    def answer_in(self, content: str) -> str:
        """Return what of an assistant's content is answer: what no thought is, and follows it."""
        opening, closing = self._marks.opening.strip(), self._marks.closing.strip()
        answer = content.rpartition(closing)[2]
        return "" if opening in answer else answer

    def switched(self, think: bool | None, effort: str | None) -> Mapping[str, Any]:
        """Return the variables that switch thinking as it is asked for; see `form.switched`."""
        reads_effort = effort is not None and self._renderer.reads_effort
        return switched(self.thoughts, reads_effort, self._model_name, think, effort)

    @classmethod
    def of(cls, model: Model) -> Self:
        """Return the chat template that a model's file holds."""
        return cls(model.chat_template, model.vocab, model.name, model.tool_template)

    def prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        variables: Mapping[str, Any] = NO_VARIABLES,
        continue_final_message: bool = False,
        parse_special: bool = False,
        spans: bool = True,
        at_once: bool = False,
    ) -> Prompt:
        """Return the tokens up to where the assistant answers next, with its earlier turns' spans.

        Args:
            messages: the chat: `role` and `content`; of an assistant also `tool_calls`, a sequence
                of `ToolCall`; of a tool also `tool_call_id` and `name`.
            tools: what the assistant may call.
            variables: what else the template is given, such as `enable_thinking`.
            continue_final_message: end behind the last message, the assistant's, which the reply
                goes on with.
            parse_special: read control tokens such as `<|im_end|>` in what people wrote as well.
            spans: whether to look for earlier turns; their spans are left out if not.
            at_once: end where the answer begins, behind an empty thought where the template cannot
                be told to ask for none.

        Raises:
            RequestError: no messages, an unknown role, an order the template refuses, or a last
                message that no reply can go on with.
            ModelError: the model has no usable chat template.
        """
        check_messages(messages)
        if at_once and self.thoughts:
            variables = {**self.thoughts.off, **variables}
        chat = Chat(messages, tools, variables)
        letter, *marks = unused_characters(chat.texts(), 3)
        if not parse_special:
            chat = self._pasted.split(chat, letter)
        write = partial(self._write, chat, (letter, *marks))
        if continue_final_message:
            written = self._go_on(chat.messages, write, marks)
        else:
            text = write(chat.messages, True)
            has_turns = any(message["role"] == "assistant" for message in messages)
            outline = Outline(text, chat.messages, write, marks) if spans and has_turns else None
            if at_once and self.thoughts:
                text += self.thoughts.ended(text, variables)
            written = _Written(text, len(text), chat.messages, outline)
        prompt = self._spelled(written, letter, spans)
        if self.thoughts is None:
            return prompt
        begun = written.text[: written.begin]
        return replace(prompt, thoughts=self.thoughts.marks_behind(begun, variables))

    def asked(self, question: str) -> Prompt:
        """Return the tokens of a question, up to where its answer begins, with no thought before.

        Raises:
            RequestError, ModelError: as `prompt`.
        """
        return self.prompt([{"role": "user", "content": question}], at_once=True)

    @cached_property
    def _pasted(self) -> Pasted:
        marks = self._marks
        thoughts = MARK.findall(marks.opening + marks.closing + marks.lead)
        return Pasted(self._vocab, (*thoughts, self.form.opening, self.form.closing))

    @property
    def _marks(self) -> ThoughtMarks:
        return self.thoughts.marks if self.thoughts else KNOWN[0]

    def _write(
        self, chat: Chat, private: Sequence[str], messages: Sequence[Message], answers: bool
    ) -> str:
        text = self.render(
            messages, chat.tools, add_generation_prompt=answers, variables=chat.variables
        )
        for letter in private:  # which some templates escape
            text = text.replace(escaped(letter), letter)
        return text

    def _go_on(self, messages: Sequence[Message], write: Write, marks: Sequence[str]) -> _Written:
        """Return the chat up to the end of its last message, with which the reply goes on."""
        _check_final(messages[-1], len(messages) - 1)
        *earlier, final = messages
        opening, closing = self._marks.opening.strip(), self._marks.closing.strip()
        content = final["content"]
        if not content.strip() and (thoughts := thoughts_of(final)):
            content = self._marks.opening + thoughts
        if earlier and (not content.strip() or opening in content.rpartition(closing)[2]):
            text = write(earlier, True)  # a thought that is open: templates expect whole ones
            outline = Outline(text, earlier, write, marks)
            content = _without_opening(content, text, opening)
            return _Written(text + content, len(text), earlier, outline)
        text = write(messages, False)
        outline = Outline(text, messages, write, marks, answers=False)
        place = outline.places.get(len(earlier))
        if place is None or place.begin == place.end:
            raise RequestError(
                f"the chat template of {self._model_name} does not show the last message, so no "
                "reply can go on with it; leave out continue_final_message."
            )
        begin = outline.begins(len(earlier))
        return _Written(text[: place.end], begin, earlier, outline)

    def _spelled(self, written: _Written, letter: str, spans: bool) -> Prompt:
        """Return the tokens of a chat, and where its turns are among them."""
        tokens = self._tokenize(written.text, letter)
        turns = list(_turns(written)) if spans else []
        places = [written.begin, *(place for _, *both in turns for place in both)]
        n_before = self._n_tokens(written.text, tokens, letter, places)
        responses = list[tuple[int, int]]()
        for message, begin, end in turns:
            first = n_before[begin]
            last = n_before[end]
            if message.get("tool_calls"):
                last = self._end_of_turn(tokens, first)
            responses.append((max(first - 1, 0), max(last, first)))
        has_bos = bool(tokens) and tokens[0] == self._vocab.bos
        begun = len(tokens) - n_before[written.begin] if written.begin < len(written.text) else 0
        return Prompt(tuple(tokens), tuple(responses), has_bos, begun)

    def _tokenize(self, text: str, letter: str) -> list[int]:
        if letter in text:
            tokens = self._pasted.tokenize(text, letter)
        else:
            tokens = self._vocab.tokenize(text, special=True)
        if self._vocab.adds_bos and tokens[:1] != [self._vocab.bos]:
            tokens = [self._vocab.bos, *tokens]
        return tokens

    def _n_tokens(
        self, text: str, tokens: list[int], letter: str, places: Sequence[int]
    ) -> dict[int, int]:
        """Return how many of a text's tokens lie before each of these places of it."""
        if all(place == len(text) for place in places):
            return dict.fromkeys(places, len(tokens))
        plain = text.replace(letter, "")
        moved = {place: place - text.count(letter, 0, place) for place in places}
        added = self._vocab.adds_bos and not plain.startswith(self._bos_text)
        spelling = Spelling(plain, tokens, self._vocab, int(added))
        if spelling.is_whole:
            counts = spelling.n_tokens(moved.values())
            return {place: counts[at] for place, at in moved.items()}
        return {
            place: n_common(self._tokenize(text[:place], letter), tokens)
            for place in moved
        }

    @property
    def _bos_text(self) -> str:
        return self._vocab.piece(self._vocab.bos, True).decode("utf-8", "replace")

    def _end_of_turn(self, tokens: list[int], first: int) -> int:
        """Return where the turn ends that begins at `first`: at the token that ends a reply."""
        ends = self._vocab.ends_generation
        return next((i for i in range(first, len(tokens)) if ends(tokens[i])), first)


def _turns(written: _Written) -> Iterator[tuple[Message, int, int]]:
    """Yield the assistant's messages, and where each begins and ends."""
    outline = written.outline
    for i, message in enumerate(written.earlier if outline else ()):
        if outline and message["role"] == "assistant":
            begin = outline.begins(i)
            place = outline.places.get(i)
            yield message, begin, max(begin, place.end) if place else begin


def _without_opening(content: str, text: str, opening: str) -> str:
    """Return a thought as it follows a text that may have opened it already."""
    if not (text.rstrip().endswith(opening) and content.lstrip().startswith(opening)):
        return content
    thought = content.lstrip().removeprefix(opening)
    return thought.lstrip("\n") if text.endswith("\n") else thought


def _check_final(message: Message, i: int) -> None:
    if message["role"] != "assistant":
        raise RequestError(
            f"continue_final_message goes on with an assistant's message, and the last, message "
            f"{i}, is of the role {message['role']!r}; put the beginning of the reply behind it."
        )
    if message.get("tool_calls"):
        raise RequestError(
            f"message {i}, which the reply is to go on with, calls tools; send what they return, "
            "or leave out continue_final_message."
        )


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
