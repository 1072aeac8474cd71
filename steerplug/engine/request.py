"""What an engine is asked for, and what it hands out: requests, pieces of a reply, its progress."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from steerplug.engine.call_marks import CallMarks
from steerplug.engine.constraint import Grammar
from steerplug.engine.sampling import Sampling
from steerplug.engine.scope import Phase, Prompt
from steerplug.errors import ContextOverflow, RequestError
from steerplug.steering.value import NOTHING, Mix

MAX_LOGPROBS = 100


@dataclass(frozen=True)
class Request:
    """What to generate.

    Args:
        prompt: the tokens to continue.
        mix: how to steer; `NOTHING` leaves the model as it is.
        sampling: how to draw tokens.
        stop: strings that end the reply, in its answer; an empty one ends nothing.
        max_tokens: most tokens to generate; None or -1: as many as the context holds; 0: none, the
            prompt is read and that is all.
        grammar: what the answer must follow: a JSON Schema, or another grammar of `constraint`.
        unsteered: phases of the reply that steering leaves out; see `scope`.
        logprobs: how many of the likeliest tokens each piece tells, besides its own
            log-probability; None: neither.
        timeout: seconds after which the reply is given up; None: never.
        partition: requests use each other's cells only where this is the same.
        calls: how the model calls tools; None: it has no calls to tell from text.
        thinking_budget: most tokens of thought, at the end of which it is closed and the answer
            begins; None: no limit of their own.
        must_fit: whether to refuse the request where the JSON that `grammar` asks for, or the call,
            is not sure to be whole in the room that there is.
        scored: whether `Progress.scores` tells of each token of the prompt what `logprobs` asks
            for; such a prompt is decoded anew, whatever the cache holds.
        tells_end: whether the token that ends the reply is told as well, in a piece without text.
        tells_moved: whether each piece tells how far steering moved its token, also where a device
            steers by itself and has to be waited for; see `Piece.moved`.
    """

    prompt: Prompt
    mix: Mix = NOTHING
    sampling: Sampling = field(default_factory=Sampling)
    stop: Sequence[str] = ()
    max_tokens: int | None = None
    grammar: Grammar | None = None
    unsteered: frozenset[Phase] = frozenset()
    logprobs: int | None = None
    timeout: float | None = None
    partition: str = ""
    calls: CallMarks | None = None
    thinking_budget: int | None = None
    must_fit: bool = False
    scored: bool = False
    tells_end: bool = False
    tells_moved: bool = False

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        object.__setattr__(self, "stop", tuple(text for text in stop if text != ""))
        if self.max_tokens == -1:
            object.__setattr__(self, "max_tokens", None)

    def check(self, n_ctx: int, n_vocab: int) -> None:
        """Refuse what an engine of this size cannot serve.

        Raises:
            ContextOverflow: the prompt leaves no room for a reply token.
            RequestError: the prompt is empty, or a limit makes no sense.
        """
        n = len(self.prompt.tokens)
        if n == 0:
            raise RequestError("the prompt is empty; send at least one message or word.")
        if self.max_tokens is not None and self.max_tokens < 0:
            raise RequestError(f"max_tokens is {self.max_tokens}; give at least 1.")
        if self.thinking_budget is not None and self.thinking_budget < 0:
            raise RequestError(
                f"the budget of thinking is {self.thinking_budget} tokens; give 0 or more."
            )
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise RequestError(f"logprobs is {self.logprobs}; choose 0 to {MAX_LOGPROBS}.")
        if self.scored and self.logprobs is None:
            raise RequestError("a prompt is scored with no logprobs; give their number, or 0.")
        if self.timeout is not None and not self.timeout > 0:
            raise RequestError(f"timeout is {self.timeout}; give a number of seconds above 0.")
        for name, tokens in (("logit_bias", self.sampling.logit_bias),
                             ("the prompt", self.prompt.tokens)):  # fmt: skip
            if tokens and not 0 <= min(tokens) <= max(tokens) < n_vocab:
                wrong = next(token for token in tokens if not 0 <= token < n_vocab)
                raise RequestError(
                    f"{name} names token {wrong}; this model has tokens 0 to {n_vocab - 1}."
                )
        if n + (self.max_tokens != 0) > n_ctx:
            raise ContextOverflow(
                f"the prompt has {n} tokens and the context holds {n_ctx}, with room for a reply; "
                "shorten the prompt or open the model with a larger n_ctx."
            )

    def no_room(self, n_ctx: int, n_needed: int | None) -> RequestError:
        """Return the error of a reply that is not sure to be whole.

        Args:
            n_ctx: how many tokens prompt and reply may have together.
            n_needed: with how many the reply would be whole; None: with no number that is known.
        """
        n = len(self.prompt.tokens)
        if n_needed is None:
            return RequestError("what is asked for is not sure to end; simplify its schema.")
        if self.max_tokens is not None and self.max_tokens <= n_ctx - n:
            return RequestError(
                f"max_tokens is {self.max_tokens}, but what is asked for is only sure to be whole "
                f"with {n_needed}; raise it."
            )
        return ContextOverflow(
            f"the prompt has {n} tokens and leaves room for {n_ctx - n}, but what is asked for is "
            f"only sure to be whole with {n_needed}; shorten the prompt or open the model with a "
            "larger n_ctx."
        )


@dataclass
class Progress:
    """What is known of a running reply; `finish_reason` is set when it has ended.

    A reply is made ahead of who reads it, and so is this. `finish_reason` is "stop" where the model
    or a stop string ended the reply, and "length" where the room for it did, even if a grammar was
    closed in time; `cut_short` then says whether it holds less than was drawn. `n_steered` counts
    steered tokens (prompt and reply), from the cache or not, and `left_out` says whether there were
    others that a phase of the request left unsteered; `moved` sums |change of h| / |h| over the
    steered (token, block) pairs that were decoded, of which there are `n_moved`; `seconds_to_first`
    is the time from the request to its first token. `n_thought` counts the tokens of thought among
    the generated. `scores` tells of each token of a scored prompt how likely it was, as far as it
    is read.
    """

    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    n_thought: int = 0
    n_steered: int = 0
    left_out: bool = False
    moved: float = 0.0
    n_moved: int = 0
    seed: int | None = None
    seconds: float = 0.0
    seconds_to_first: float = 0.0
    finish_reason: str | None = None
    cut_short: bool = False
    scores: "list[Logprobs | None]" = field(default_factory=list)


@dataclass(frozen=True)
class Logprobs:
    """How likely a token was in the model as steered, before any sampling setting or grammar.

    Args:
        logprob: the natural logarithm of the drawn token's probability.
        top: the likeliest tokens, each with its own, likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


class Piece(NamedTuple):
    """One generated token: its text as far as it is certain, and how strongly it was steered.

    `token` is None where only text that had been held back is handed out.
    `moved` is the mean of |change of h| / |h| over the steered blocks of the token whose logits
    drew this one; 0 where nothing was steered, and NaN where a device steers by itself and the
    request does not ask for it (`Request.tells_moved`). `in_call` says whether the token belongs
    to a tool call, from the one that completes its opening mark on; `in_thought`, whether the text
    is a thought's, or none because the token is of what stands around thoughts.
    """

    text: str
    token: int | None
    moved: float
    logprobs: Logprobs | None = None
    in_call: bool = False
    in_thought: bool = False


def tokens_of(pieces: Iterable[Piece]) -> tuple[int, ...]:
    """Return the tokens of a reply, or of what there is of one."""
    return tuple(piece.token for piece in pieces if piece.token is not None)
