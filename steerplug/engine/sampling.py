"""Choosing the next token, by llama.cpp's own sampler chain, in llama.cpp's own order.

logit_bias -> penalties -> top_k -> top_p -> min_p -> temperature -> draw with the seed;
temperature 0 is greedy, which needs no chain where nothing changes the logits first.
"""

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from llama_cpp import llama_cpp as llama

from steerplug.engine.context import Context
from steerplug.errors import RequestError

_PENALTY_WINDOW = 64
_MAX_SEED = 2**32 - 2
_MAX_BIAS = 100.0


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The defaults are llama.cpp's.

    Args:
        temperature: 0 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the most likely tokens up to this total probability.
        min_p: keep tokens at least this fraction as likely as the best.
        repeat_penalty: above 1 makes recent tokens less likely.
        seed: the same seed draws the same reply; None draws a fresh one.
        logit_bias: what is added to the logits of single tokens, -100 to 100.

    Raises:
        RequestError: a value is out of range.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in _RANGES:
            value = getattr(self, name)
            if value is not None or name != "seed":
                _check(name, value)
        for token, bias in self.logit_bias.items():
            _check("logit_bias", bias, (-_MAX_BIAS, _MAX_BIAS))
            if isinstance(token, bool) or not isinstance(token, int):
                raise RequestError(f"logit_bias names token {token!r}; give its number.")

    def seeded(self) -> "Sampling":
        """Return the same with a seed, drawn now if there was none."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(_MAX_SEED))


_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 10.0),
    "top_k": (0, 1_000_000),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.1, 10.0),
    "seed": (0, _MAX_SEED),
}
_WHOLE = ("top_k", "seed")


def _check(name: str, value: object, allowed: tuple[float, float] | None = None) -> None:
    low, high = allowed or _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(f"{name} is {value!r}; give a number such as {low}.")
    if name in _WHOLE and not isinstance(value, int):
        raise RequestError(f"{name} is {value}; give a whole number such as {low}.")
    if not math.isfinite(value) or not low <= value <= high:
        raise RequestError(f"{name} is {value}; choose {low} to {high}.")


class Sampler:
    """A llama.cpp sampler chain for one reply.

    Args:
        sampling: how tokens are drawn.
        n_vocab: how many tokens the model knows.
    """

    def __init__(self, sampling: Sampling, n_vocab: int) -> None:
        self._chain = None
        if sampling.temperature == 0 and sampling.repeat_penalty == 1 and not sampling.logit_bias:
            return
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._chain = chain
        add: Callable[..., None] = llama.llama_sampler_chain_add
        if bias := sampling.logit_bias:
            biases = (llama.llama_logit_bias * len(bias))(*bias.items())
            add(chain, llama.llama_sampler_init_logit_bias(n_vocab, len(bias), biases))
        if sampling.repeat_penalty != 1.0:
            add(chain, llama.llama_sampler_init_penalties(
                n_vocab, _PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0))
        if sampling.temperature == 0:
            add(chain, llama.llama_sampler_init_greedy())
            return
        if sampling.top_k:
            add(chain, llama.llama_sampler_init_top_k(sampling.top_k))
        add(chain, llama.llama_sampler_init_top_p(sampling.top_p, 1))
        add(chain, llama.llama_sampler_init_min_p(sampling.min_p, 1))
        add(chain, llama.llama_sampler_init_temp(sampling.temperature))
        add(chain, llama.llama_sampler_init_dist(sampling.seeded().seed or 0))

    def draw(self, context: Context, row: int) -> int:
        """Draw a token from the logits of batch row `row`, and remember it for the penalties."""
        if self._chain is None:
            return int(context.logits_in_place(row).argmax())
        return int(llama.llama_sampler_sample(self._chain, context.handle, row))

    def close(self) -> None:
        """Free the chain."""
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
            self._chain = None

    def __del__(self) -> None:
        self.close()
