"""A chat as tokens: the model's own Jinja template, and exact spans of the assistant's turns.

How a chat is written is the business of `renderer`, where its messages stand in it that of
`outline`, and which tokens they are that of `tokenizer`.

Control tokens are what the template writes; in what people wrote they are text, see `pasted`.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Self

from steerplug.chat.calls.plain import Message
from steerplug.chat.checking import check_final, check_messages
from steerplug.chat.outline import Outline, Write
from steerplug.chat.pasted import Chat, Pasted, escaped, unused_characters
from steerplug.chat.renderer import NO_VARIABLES, Renderer
from steerplug.chat.thoughts.form import Thoughts, switched
from steerplug.chat.thoughts.planted import KNOWN
from steerplug.chat.tokenizer import Tokenizer, Written
from steerplug.chat.tool import Tool
from steerplug.chat.values import thoughts_of
from steerplug.engine.model import Model
from steerplug.engine.scope import Prompt
from steerplug.engine.thought_marks import MARK, ThoughtMarks
from steerplug.engine.vocab import Vocab
from steerplug.errors import ModelError, RequestError

__all__ = ["ChatTemplate", "Message"]


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
            written = Written(text, len(text), chat.messages, outline)
        prompt = self._tokenizer.prompt(written, letter, spans=spans)
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

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self._vocab, self._pasted)

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

    def _go_on(self, messages: Sequence[Message], write: Write, marks: Sequence[str]) -> Written:
        """Return the chat up to the end of its last message, with which the reply goes on."""
        check_final(messages[-1], len(messages) - 1)
        *earlier, final = messages
        opening, closing = self._marks.opening.strip(), self._marks.closing.strip()
        content = final["content"]
        if not content.strip() and (thoughts := thoughts_of(final)):
            content = self._marks.opening + thoughts
        if earlier and (not content.strip() or opening in content.rpartition(closing)[2]):
            text = write(earlier, True)  # a thought that is open: templates expect whole ones
            outline = Outline(text, earlier, write, marks)
            content = _without_opening(content, text, opening)
            return Written(text + content, len(text), earlier, outline)
        text = write(messages, False)
        outline = Outline(text, messages, write, marks, answers=False)
        place = outline.places.get(len(earlier))
        if place is None or place.begin == place.end:
            raise RequestError(
                f"the chat template of {self._model_name} does not show the last message, so no "
                "reply can go on with it; leave out continue_final_message."
            )
        begin = outline.begins(len(earlier))
        return Written(text[: place.end], begin, earlier, outline)

def _without_opening(content: str, text: str, opening: str) -> str:
    """Return a thought as it follows a text that may have opened it already."""
    if not (text.rstrip().endswith(opening) and content.lstrip().startswith(opening)):
        return content
    thought = content.lstrip().removeprefix(opening)
    return thought.lstrip("\n") if text.endswith("\n") else thought
