"""Rotary positions as the GGUF states them, in place of those of transformers' defaults.

A pair i of a head's values is turned by position * w_i and stretched by m:

    w_i = s * base^(-2i / n_rot) / f_i            s: 1 / rope.scaling.factor, f: factors per pair
    YaRN: w_i = (s (1 - r_i) + r_i) base^(-2i / n_rot) / f_i,  m = 1 + 0.1 ln(1 / s)

r_i falls from 1 to 0 between the pairs that turn `beta_fast` and `beta_slow` times within the
original context. Factors are tensors: `rope_freqs` (Llama 3), `rope_factors_short` and `_long`,
of which the size of the context chooses. Sources: llama.cpp (`ggml_rope_ext`, `llama_context`), as
which the copy must turn; YaRN, arXiv 2309.00071.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from steerplug.engine.model import Model
from steerplug.fit.distill.configuration import rotary_values

_OWN_BASE = {"gemma3": 10_000.0, "gemma4": 10_000.0}
"""Where blocks with a sliding window turn by a base of their own, unscaled: its default."""

_OWN_YARN = {"mistral3"}
"""Where llama.cpp heeds `yarn_beta_fast`, `_slow` and `yarn_log_multiplier`: elsewhere 32, 1, 0."""


def turn_alike(module: Any, model: Model, tensors: Mapping[str, torch.Tensor], n_ctx: int) -> None:
    """Set the rotary frequencies of a transformers model to the GGUF's.

    Args:
        module: the transformers model.
        model: the GGUF.
        tensors: its tensors of rotary factors, by name.
        n_ctx: the context that llama.cpp reads it in.

    Raises:
        ValueError: transformers turns another number of values, or the scaling is unknown.
    """
    for part in module.modules():
        for name, buffer in list(part.named_buffers(recurse=False)):
            if name.endswith("inv_freq") and "original" not in name:
                kind = name.removesuffix("inv_freq")
                frequencies, stretch = _frequencies(
                    model, tensors, n_ctx, sliding=kind == "sliding_attention_"
                )
                if len(frequencies) != len(buffer):
                    raise ValueError(
                        f"it turns {2 * len(frequencies)} values of a head, "
                        f"and transformers {2 * len(buffer)}"
                    )
                buffer.copy_(frequencies)
                setattr(part, f"{kind}attention_scaling", stretch)


def _frequencies(
    model: Model, tensors: Mapping[str, torch.Tensor], n_ctx: int, sliding: bool
) -> tuple[torch.Tensor, float]:
    """Return w, (n_rot / 2,), and m."""
    n_rot = rotary_values(model, sliding)
    base = model.number("rope.freq_base") or 10_000.0
    if sliding and model.architecture in _OWN_BASE:
        base = model.number("rope.freq_base_swa") or _OWN_BASE[model.architecture]
        return _unscaled(base, n_rot), 1.0
    kind = model.hyper_parameters.get("rope.scaling.type") or "linear"
    factor = model.number("rope.scaling.factor") or model.number("rope.scale_linear") or 1.0
    stretch = model.number("rope.scaling.attn_factor") or 1.0
    w = _unscaled(base, n_rot) / _factors(model, tensors, n_ctx, n_rot)
    if kind == "yarn":
        r = _extrapolated(model, n_rot, base)
        return w * ((1 - r) / factor + r), stretch * _yarn_stretch(model, factor)
    if kind not in ("none", "linear", "longrope"):
        raise ValueError(f"its rope.scaling.type is `{kind}`")
    return (w if kind == "none" else w / factor), stretch


def _unscaled(base: float, n_rot: int) -> torch.Tensor:
    return torch.tensor([base ** (-2 * i / n_rot) for i in range(n_rot // 2)])


def _factors(
    model: Model, tensors: Mapping[str, torch.Tensor], n_ctx: int, n_rot: int
) -> torch.Tensor:
    is_long = n_ctx > _original_context(model)
    names = ("rope_freqs.weight", f"rope_factors_{'long' if is_long else 'short'}.weight")
    return next((tensors[name] for name in names if name in tensors), torch.ones(n_rot // 2))


def _original_context(model: Model) -> float:
    return model.number("rope.scaling.original_context_length") or float(model.n_ctx_train)


def _extrapolated(model: Model, n_rot: int, base: float) -> torch.Tensor:
    """Return r: how much of each pair's frequency is left as it is."""

    def pair(turns: float) -> float:
        """Return which pair turns so often within the original context."""
        wave = _original_context(model) / (turns * 2 * math.pi)
        return n_rot * math.log(wave) / (2 * math.log(base))

    fast, slow = (
        model.number(f"rope.scaling.yarn_beta_{speed}") if model.architecture in _OWN_YARN else None
        for speed in ("fast", "slow")
    )
    low = max(0, math.floor(pair(fast or 32.0)))
    high = min(n_rot - 1, math.ceil(pair(slow or 1.0)))
    return 1 - ((torch.arange(n_rot // 2) - low) / max(0.001, high - low)).clamp(0, 1)


def _yarn_stretch(model: Model, factor: float) -> float:
    named = model.number("rope.scaling.yarn_log_multiplier")
    share = (model.architecture in _OWN_YARN and named) or 0.0
    return (1 + 0.1 * math.log(factor)) / (1 + 0.1 * share * math.log(factor))
