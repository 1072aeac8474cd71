"""What comes back from a call: a reply, its usage, and the receipt of what was applied."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from steerplug.chat.tool import ToolCall
from steerplug.steering.terms import Phase

if TYPE_CHECKING:
    from steerplug.engine.request import Logprobs


@dataclass(frozen=True)
class AppliedPreset:
    """One ingredient of a receipt: whose numbers, at what strength, and what it holds the reply to.

    `format` is "json" where the preset constrains the reply as well as steers it, else empty;
    `unsteered` names phases of the reply that it leaves out, `steered` those that it does not,
    though they would be.
    `pack` names the pack the preset came in, and its version, such as "sea@1.2.0"; empty for the
    user's own presets, the shipped ones and plain files.
    `carrier` says what brought it in: "steering", "prompt" or "both"; `reason` says why the prompt
    did where nobody asked for that; `quick` whether the steering came of a quick fit. The digest is
    that of the steering, else of the preset.
    """

    name: str
    version: str
    strength: float
    digest: str
    layers: tuple[int, ...]
    scope: str
    format: str = ""
    pack: str = ""
    unsteered: tuple[Phase, ...] = ()
    carrier: str = "steering"
    reason: str = ""
    steered: tuple[Phase, ...] = ()
    quick: bool = False


@dataclass(frozen=True)
class Receipt:
    """What was applied to one reply.

    Args:
        steering: the ingredients; none if no preset was asked for.
        digest: sha256 over the whole mix; empty if nothing was steered.
        tokens_steered: prompt and reply tokens that steering acted on.
        mean_moved: mean of |change of h| / |h| over steered tokens and blocks.
        carrier: what carried the ingredients, such as "steering", or "prompt, steering" where they
            differ; empty if there are none.
        prompt_tokens: how many tokens of the prompt presets cost.
    """

    steering: tuple[AppliedPreset, ...] = ()
    digest: str = ""
    tokens_steered: int = 0
    mean_moved: float = 0.0
    carrier: str = ""
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Usage:
    """Tokens of one reply.

    `cached_tokens` of the prompt's were not computed again, `reasoning_tokens` of the reply's were
    thought.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Reply:
    """A finished reply.

    `finish_reason` is "stop" where the model or a stop string ended it, "tool_calls" where it ended
    with calls, and "length" where its room did; calls of such a reply follow their schema, but the
    last one was closed earlier than the model would have. `reasoning` is what the model thought
    before it answered, which is no part of `text`.
    """

    text: str
    finish_reason: str
    usage: Usage
    receipt: Receipt
    seed: int
    seconds: float
    seconds_to_first: float
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the reply as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Scored:
    """A text, and how likely a model found it.

    Args:
        tokens: the text's.
        logprobs: for each of them, by those before it; None for the first.
        reply: the receipt of what was applied, the usage and the time; its text is empty.
    """

    tokens: tuple[int, ...]
    logprobs: "tuple[Logprobs | None, ...]"
    reply: Reply
