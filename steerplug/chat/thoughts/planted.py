"""How a template writes thoughts, read from what it makes of a planted chat.

An assistant's turn with a thought is rendered, and what stands around it are the marks. A template
that shows no thoughts may open one, or close an empty one, where the assistant answers; may cut
them from what the assistant said; or may ask for them in words. There, marks that are known are
looked for. Variables that switch thinking are those that change the text.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from steerplug.chat.calls.plain import Message
from steerplug.chat.thoughts.form import Replayed, Thoughts
from steerplug.chat.tool import ToolCall
from steerplug.engine.thought_marks import MARK, ThoughtMarks
from steerplug.engine.vocab import Vocab

Render = Callable[[Sequence[Message], Replayed, bool, Mapping[str, Any]], str | None]
"""A chat as the template itself writes it, or None where it refuses it: the messages, how thoughts
are given, whether the assistant answers next, and variables."""

KNOWN = (
    ThoughtMarks("<think>\n", "\n</think>\n\n"),
    ThoughtMarks("[THINK]", "[/THINK]"),
    ThoughtMarks("<seed:think>", "</seed:think>"),
    ThoughtMarks("<thinking>\n", "\n</thinking>\n\n"),
    ThoughtMarks("<|channel>thought\n", "\n<channel|>"),
    ThoughtMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ThoughtMarks("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ThoughtMarks("Here are my reasoning steps:\n", "\n[BEGIN FINAL RESPONSE]\n"),
    ThoughtMarks(
        "<|channel|>analysis<|message|>", "<|end|>",
        lead="<|start|>assistant<|channel|>final<|message|>", head="<|channel|>final<|message|>",
    ),
)  # fmt: skip
_RESPONSE = "<response>", "</response>"

_SWITCHES: tuple[tuple[str, Any, Any], ...] = (
    ("enable_thinking", True, False),
    ("thinking", True, False),
    ("thinking_mode", "enabled", "disabled"),
    ("thinking_budget", -1, 0),
)
_ASKED, _THOUGHT, _SAID, _CALLED = "whimbrel", "sanderling", "dotterel", "count_avocet"
_USER: Message = {"role": "user", "content": _ASKED}
_CALL = ToolCall("curlew123", _CALLED, "{}")
_ANSWER: Message = {"role": "assistant", "content": _SAID}
_THINKING = re.compile(r"<[^<>\s]*(?:think|thought|reason)[^<>\s]*>\s*$", re.IGNORECASE)


def find_thoughts(render: Render, vocab: Vocab) -> Thoughts | None:
    """Return how a template's model thinks; None where nothing tells that it does.

    Args:
        render: writes chats by the template.
        vocab: the model's vocabulary.
    """
    template = _Template(render)
    found = template.shown(vocab)
    marks, replayed = found or (template.hinted() or _own_tokens(vocab), "none")
    if marks is None:
        return None
    on, off = template.switch
    ended = template.end(off).rstrip() if off else ""
    return Thoughts(
        marks, replayed, on, off,
        opens=template.end(on).rstrip().endswith(marks.opening.strip()),
        closes=ended.endswith(marks.closing.strip()),
    )  # fmt: skip


def reads_effort(render: Render) -> bool:
    """Whether a template reads `reasoning_effort`."""
    template = _Template(render)
    on, _ = template.switch
    texts = {template.begin({**on, "reasoning_effort": effort}) for effort in ("low", "high")}
    return len(texts) > 1


class _Template:
    """Writes planted chats, and reads marks in them."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self.switch = self._find_switch()
        """Variables that turn thinking on and off."""

    def begin(self, variables: Mapping[str, Any]) -> str:
        """Return a chat up to where the assistant answers."""
        return self._render([_USER], "fields", True, variables) or ""

    def end(self, variables: Mapping[str, Any]) -> str:
        """Return what such a chat has behind the user's words."""
        return self.begin(variables).rpartition(_ASKED)[2]

    def _find_switch(self) -> tuple[dict[str, Any], dict[str, Any]]:
        for name, on, off in _SWITCHES:
            if self.begin({name: on}) != self.begin({name: off}):
                return {name: on}, {name: off}
        return {}, {}

    def shown(self, vocab: Vocab) -> tuple[ThoughtMarks, Replayed] | None:
        """Return the marks around a thought that the template shows, and how it was given."""
        on, _ = self.switch
        for replayed, chat, word in self._thinking_chats():
            text = self._render(chat, replayed, False, on) or ""
            before, found, behind = text.partition(_THOUGHT)
            between, said, after = behind.partition(word)
            if found and said and (marks := self._around(before, between, word)):
                return self._framed(marks, after, vocab), replayed
        return None

    def _thinking_chats(self) -> Iterator[tuple[Replayed, list[Message], str]]:
        """Yield chats with a thought, how it is given, and the word that follows it."""
        thought: Message = {**_ANSWER, "reasoning_content": _THOUGHT}
        called: Message = {**thought, "content": "", "tool_calls": (_CALL,)}
        result: Message = {
            "role": "tool", "content": "7", "tool_call_id": _CALL.id, "name": _CALLED
        }  # fmt: skip
        forms: tuple[Replayed, ...] = ("fields", "parts")
        for replayed in forms:
            yield replayed, [_USER, thought], _SAID
            yield replayed, [_USER, thought, _USER], _SAID
            yield replayed, [_USER, called, result], _CALLED

    def _around(self, before: str, between: str, word: str) -> ThoughtMarks | None:
        opening = self._opening(before)
        if not opening or "{" in opening:  # a part of the content as Python would write it
            return None
        known = next((m for m in KNOWN if m.opening.strip() == opening.strip()), None)
        pattern = re.escape(known.closing.strip()) if known else MARK.pattern
        closed = re.search(rf"\s*(?:{pattern})\s*", between)
        if closed is None:
            return None
        if word == _CALLED:  # what follows is of the call
            return known or ThoughtMarks(opening, closed[0])
        lead = between[closed.end() :]
        return ThoughtMarks(opening, closed[0] if not lead else closed[0].rstrip(), lead)

    def _opening(self, before: str) -> str:
        """Return what opens a thought: what a turn has more than its beginning, or a mark."""
        on, off = self.switch
        for begin in (self.begin(on), self.begin(off), self.begin({})):
            more = before.removeprefix(begin) if before.startswith(begin) else ""
            if more.strip():
                return more
        for marks in KNOWN:
            if before.rstrip().endswith(mark := marks.opening.strip()):
                return before[before.rindex(mark) :]
        mark_ = _THINKING.search(before)
        return mark_[0] if mark_ else ""

    def _framed(self, marks: ThoughtMarks, after: str, vocab: Vocab) -> ThoughtMarks:
        """Return marks with what stands around an answer, where there is more than white space."""
        if not marks.lead:
            return marks
        begin = self.begin(self.switch[0])
        text = self._render([_USER, _ANSWER], "fields", False, self.switch[0]) or ""
        head = text.partition(_SAID)[0].removeprefix(begin) if text.startswith(begin) else ""
        first = next(iter(MARK.findall(after)), "")
        spelled = vocab.tokenize(first, special=True)
        ends = len(spelled) == 1 and vocab.ends_generation(spelled[0])
        thinks = any(mark.strip() in head for mark in (marks.opening, marks.closing))
        has_head = head.strip() and not thinks
        return replace(marks, head=head if has_head else marks.lead, tail="" if ends else first)

    def hinted(self) -> ThoughtMarks | None:
        """Return known marks that the template writes, cuts away or speaks of."""
        on, off = self.switch
        ends = [self.end(variables) for variables in (on, off, {})]
        asked = self.begin(on)
        for marks in KNOWN:
            opening, closing = marks.opening.strip(), marks.closing.strip()
            own = [opening, *([closing] if "think" in closing else [])]  # what no other mark is
            if any(mark in end for mark in own for end in ends):
                return _spelled(marks, ends)
            if self._cuts(marks) or (opening in asked and closing in asked):
                lead, tail = _RESPONSE if all(mark in asked for mark in _RESPONSE) else ("", "")
                return replace(marks, lead=lead, head=lead, tail=tail) if lead else marks
        return None

    def _cuts(self, marks: ThoughtMarks) -> bool:
        """Whether the template cuts thoughts from what the assistant said."""
        content = f"{marks.opening}{_THOUGHT}{marks.closing}{_SAID}"
        chat = [_USER, {**_ANSWER, "content": content}, _USER]
        text = self._render(chat, "fields", False, {}) or ""
        return _SAID in text and _THOUGHT not in text


def _spelled(marks: ThoughtMarks, ends: Sequence[str]) -> ThoughtMarks:
    """Return marks with the white space that a template writes around them."""
    opening, closing = re.escape(marks.opening.strip()), re.escape(marks.closing.strip())
    if opened := _first(rf"{opening}\s*$", ends):
        marks = replace(marks, opening=opened[0])
    if empty := _first(rf"{opening}(\s*{closing}\s*)$", ends):
        has_own = empty[0].startswith(marks.opening)
        closing = empty[0][len(marks.opening) :] if has_own else empty[1]
        marks = replace(marks, closing=closing)
    return marks


def _first(pattern: str, texts: Sequence[str]) -> re.Match[str] | None:
    return next(filter(None, (re.search(pattern, text) for text in texts)), None)


def _own_tokens(vocab: Vocab) -> ThoughtMarks | None:
    """Return known marks that are tokens of their own."""
    for marks in KNOWN:
        spelled = [vocab.tokenize(m.strip(), special=True) for m in (marks.opening, marks.closing)]
        if all(len(tokens) == 1 for tokens in spelled):
            return marks
    return None
