"""Choosing the next token, by llama.cpp's own sampler chain, in llama.cpp's own order.

    logit_bias -> penalties -> dry -> top_n_sigma -> top_k -> typical_p -> top_p -> min_p -> xtc
    -> temperature -> draw with the seed

Temperature 0 is greedy, which needs no chain where nothing changes the logits first. Mirostat
chooses in place of what stands between dry and temperature. What is set to nothing is left out.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence

from llama_cpp import llama_cpp as llama

from steerplug.engine.context import Context
from steerplug.engine.sampling import Sampling
from steerplug.engine.vocab import Vocab

__all__ = ["Sampler", "Sampling"]

_MIROSTAT_TOKENS = 100
_NEXT_TO_NOTHING = 1e-37

Stage = ctypes.c_void_p
"""One sampler of a chain, which frees it."""


class Sampler:
    """A llama.cpp sampler chain for one reply.

    Args:
        sampling: how tokens are drawn.
        n_vocab: how many tokens the model knows.
        vocab: its vocabulary, in which DRY looks for what ends a repetition.
        n_ctx: how many tokens a setting of -1 looks back.
        prompt: the tokens before the reply, which penalties count as llama.cpp's server does.

    Raises:
        ModelError: DRY is asked for and the model has no tokeniser.
    """

    def __init__(
        self, sampling: Sampling, n_vocab: int, *, vocab: Vocab | None = None, n_ctx: int = 0,
        prompt: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self._chain = None
        self._looking_back: list[Stage] = []
        sampling = sampling.seeded()
        last_n = sampling.repeat_last_n, sampling.dry_penalty_last_n
        n_repeat, n_dry = (n_ctx if n < 0 else n for n in last_n)
        self._n_back = max(n_repeat, n_dry)
        if sampling.penalises and n_repeat:
            self._looking_back.append(_penalties(sampling, n_vocab, n_repeat))
        if sampling.breaks_repetitions and n_dry:
            assert vocab is not None
            self._looking_back.append(_dry(sampling, vocab, n_dry))
        stages = [*_biases(sampling, n_vocab), *self._looking_back, *_choosing(sampling)]
        if sampling.temperature == 0 and not stages:
            return
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        add: Callable[..., None] = llama.llama_sampler_chain_add
        for stage in (*stages, *_drawing(sampling, n_vocab)):
            add(self._chain, stage)
        self.remember(prompt)

    def draw(self, context: Context, row: int) -> int:
        """Draw a token from the logits of batch row `row`, and remember it for the penalties."""
        if self._chain is None:
            return int(context.logits_in_place(row).argmax())
        return int(llama.llama_sampler_sample(self._chain, context.handle, row))

    def remember(self, tokens: Sequence[int]) -> None:
        """Let the penalties count these tokens, and none that was drawn and not said."""
        for stage in self._looking_back:
            llama.llama_sampler_reset(stage)
            for token in tokens[-self._n_back :]:
                llama.llama_sampler_accept(stage, token)

    def close(self) -> None:
        """Free the chain."""
        self._looking_back = []
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
            self._chain = None

    def __del__(self) -> None:
        self.close()


def _biases(sampling: Sampling, n_vocab: int) -> Iterator[Stage]:
    if bias := sampling.logit_bias:
        biases = (llama.llama_logit_bias * len(bias))(*bias.items())
        yield llama.llama_sampler_init_logit_bias(n_vocab, len(bias), biases)


def _penalties(sampling: Sampling, n_vocab: int, last_n: int) -> Stage:
    stage: Stage = llama.llama_sampler_init_penalties(
        n_vocab, last_n, sampling.repeat_penalty, sampling.frequency_penalty,
        sampling.presence_penalty,
    )  # fmt: skip
    return stage


def _dry(sampling: Sampling, vocab: Vocab, last_n: int) -> Stage:
    texts = [text.encode("utf-8", "replace") for text in sampling.dry_sequence_breakers]
    vocab.tokenize("a")  # llama.cpp would end the process where there is no tokeniser
    stage: Stage = llama.llama_sampler_init_dry(
        vocab.handle, sampling.dry_multiplier, sampling.dry_base, sampling.dry_allowed_length,
        last_n, (ctypes.c_char_p * len(texts))(*texts), len(texts),
    )  # fmt: skip
    return stage


def _choosing(sampling: Sampling) -> Iterator[Stage]:
    """Yield what narrows the choice; of a greedy one, where the likeliest token may fall out."""
    drops_best = sampling.typical_p < 1 or sampling.xtc_probability > 0
    if sampling.mirostat or (sampling.temperature == 0 and not drops_best):
        return
    if sampling.top_n_sigma > 0:
        yield llama.llama_sampler_init_top_n_sigma(sampling.top_n_sigma)
    if sampling.top_k:
        yield llama.llama_sampler_init_top_k(sampling.top_k)
    if sampling.typical_p < 1:
        yield _possible()
        yield llama.llama_sampler_init_typical(sampling.typical_p, 1)
    yield llama.llama_sampler_init_top_p(sampling.top_p, 1)
    yield llama.llama_sampler_init_min_p(sampling.min_p, 1)
    if sampling.xtc_probability > 0:
        yield llama.llama_sampler_init_xtc(
            sampling.xtc_probability, sampling.xtc_threshold, 1, sampling.seed
        )


def _drawing(sampling: Sampling, n_vocab: int) -> Iterator[Stage]:
    """Yield what draws a token of those that are left."""
    seed, tau, eta = sampling.seed, sampling.mirostat_tau, sampling.mirostat_eta
    if sampling.temperature == 0:
        yield llama.llama_sampler_init_greedy()
        return
    if sampling.dynatemp_range > 0 and not sampling.mirostat:
        yield llama.llama_sampler_init_temp_ext(
            sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent
        )
    else:
        yield llama.llama_sampler_init_temp(sampling.temperature)
    if sampling.mirostat == 1:
        yield _possible()
        yield llama.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, _MIROSTAT_TOKENS)
    elif sampling.mirostat == 2:
        yield llama.llama_sampler_init_mirostat_v2(seed, tau, eta)
    else:
        yield llama.llama_sampler_init_dist(seed)


def _possible() -> Stage:
    """Return what drops tokens that a grammar forbids: their entropy would be no number."""
    stage: Stage = llama.llama_sampler_init_min_p(_NEXT_TO_NOTHING, 1)
    return stage
