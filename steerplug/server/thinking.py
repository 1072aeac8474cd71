"""Whether and how much a model is to think, in the words of each server whose clients come here.

    enable_thinking, reasoning_effort, thinking_budget_tokens    llama.cpp, OpenAI, Qwen
    think: true, false, or an effort                             Ollama
    thinking: {type: enabled or disabled, budget_tokens}         Anthropic, DeepSeek, GLM; or a bool
    reasoning: {effort, max_tokens, enabled, exclude}            OpenRouter

Two fields may say the same, and not two things.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steerplug.server.errors import Refused
from steerplug.server.requests import ChatBody

_KINDS = {"enabled": True, "disabled": False, "adaptive": None}


@dataclass(frozen=True)
class AskedThinking:
    """What a request says of thinking; None says nothing.

    Args:
        enabled: whether to think.
        effort: how hard.
        budget: most tokens of thought.
        told: whether the thoughts are part of the answer to the request.
    """

    enabled: bool | None = None
    effort: str | None = None
    budget: int | None = None
    told: bool = True


def asked_thinking(body: ChatBody) -> AskedThinking:
    """Return what a body says, in whatever fields it does.

    Raises:
        Refused: a field cannot be read, or two say different things.
    """
    said: dict[str, tuple[str, Any]] = {}
    for field, name, value in _said(body):
        if value is None:
            continue
        before, known = said.setdefault(name, (field, value))
        if known != value:
            raise Refused(f"`{before}` and `{field}` say two things; send one.", param=field)
    return AskedThinking(**{name: value for name, (_, value) in said.items()})


def _said(body: ChatBody) -> Iterator[tuple[str, str, Any]]:
    """Yield fields of the body, each with what it says of what."""
    yield "enable_thinking", "enabled", body.enable_thinking
    yield "reasoning_effort", "effort", body.reasoning_effort
    yield "thinking_budget_tokens", "budget", body.thinking_budget_tokens
    yield "include_reasoning", "told", body.include_reasoning
    for field in ("think", "thinking"):
        value = getattr(body, field)
        if isinstance(value, Mapping):
            yield from _anthropic(field, value)
        elif isinstance(value, str) and value:
            yield field, "effort", value
        elif isinstance(value, bool) or value is None:
            yield field, "enabled", value
        else:
            raise _unread(field, value)
    if isinstance(body.reasoning, Mapping):
        yield from _openrouter(body.reasoning)
    elif body.reasoning is not None:
        raise _unread("reasoning", body.reasoning)


def _anthropic(field: str, value: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    kind = value.get("type")
    if kind not in _KINDS:
        raise _unread(field, value)
    yield field, "enabled", _KINDS[kind]
    yield field, "budget", _number(field, value.get("budget_tokens"))


def _openrouter(value: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for key, name, kind in (
        ("effort", "effort", str), ("enabled", "enabled", bool), ("exclude", "told", bool)
    ):  # fmt: skip
        part = value.get(key)
        if part is not None and not isinstance(part, kind):
            raise _unread("reasoning", value)
        yield "reasoning", name, (not part) if key == "exclude" and part is not None else part
    yield "reasoning", "budget", _number("reasoning", value.get("max_tokens"))


def _number(field: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise _unread(field, value)


def _unread(field: str, value: Any) -> Refused:
    return Refused(
        f"{field} is {value!r:.60}, which says nothing of thinking that is known here; send "
        "enable_thinking, reasoning_effort or thinking_budget_tokens.",
        param=field,
    )
