"""How to generate a reply, besides what steers it: what every door says to a session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steerplug.chat.tool import Tools
from steerplug.engine.constraint import Grammar
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Phase
from steerplug.preset.carrier import Carrier

Text = str | Sequence[int]
"""A text without a chat template, or its tokens."""


@dataclass(frozen=True)
class Settings:
    """How to generate, besides steering.

    Args:
        sampling: how tokens are drawn.
        stop: strings that end the reply, in its answer and not in its thoughts; an empty one ends
            nothing.
        max_tokens: most tokens to generate; None or -1: as many as the context holds; 0, where a
            text is gone on with: none, it is read and that is all.
        format: what the answer must follow: a JSON Schema, or another grammar of `constraint`; a
            model that thinks does so freely first.
        tools: what the reply may call.
        unsteered: phases that steering leaves out, besides those that the presets leave out.
        steered: phases that it does not leave out, though it would: thoughts are left out by
            themselves.
        logprobs: how many of the likeliest tokens each piece tells; None: no probabilities.
        timeout: seconds after which the reply is given up; None: never.
        partition: replies use each other's cached prompts only where this is the same.
        continue_final_message: go on with the last message of a chat, the assistant's; the reply's
            text is what follows it.
        chat_template_kwargs: what else the chat template is given, such as `enable_thinking`.
        parse_special: read control tokens such as `<|im_end|>` in what people wrote as well as in
            what the chat template writes, or in a text to be continued.
        carrier: what brings presets into the reply; see `preset.carrier`.
        tells_end: whether the token that ends a reply is told as well, in a piece without text.
        tells_moved: whether each piece tells how far steering moved its token, also on a device,
            which has to be waited for then; see `Piece.moved`.
        enable_thinking: whether the model thinks before it answers; None: as its template has it.
        reasoning_effort: how hard it thinks, where its template reads that; "none": not at all.
        thinking_budget_tokens: most tokens of thought, behind which it answers; None: no limit.
    """

    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    format: Grammar | None = None
    tools: Tools = field(default_factory=Tools)
    unsteered: frozenset[Phase] = frozenset()
    steered: frozenset[Phase] = frozenset()
    logprobs: int | None = None
    timeout: float | None = None
    partition: str = ""
    continue_final_message: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    parse_special: bool = False
    carrier: Carrier = "auto"
    tells_end: bool = False
    tells_moved: bool = False
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    thinking_budget_tokens: int | None = None

    @property
    def most_thought(self) -> int | None:
        """Most tokens of thought: none where thinking is switched off, by whatever setting."""
        off = self.enable_thinking is False or self.reasoning_effort == "none"
        return 0 if off else self.thinking_budget_tokens
