"""What a GGUF states about the function it holds, in the words of transformers' configurations.

transformers reads a GGUF's sizes, and takes its own defaults for much of the rest. Here the rest is
set, and a hyper-parameter that nobody reads is a reason to refuse: it may change the function.
"""

from typing import Any

from steerplug.engine.model import Model
from steerplug.fit.distill.families import family_of

_SIZES = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.value_length", "expert_count",
    "expert_used_count",
}  # fmt: skip
_NORMS = {"attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"}
_ROTARY = {
    "rope.dimension_count", "rope.freq_base", "rope.scale_linear",
    *(f"rope.scaling.{name}" for name in (
        "type", "factor", "attn_factor", "original_context_length", "finetuned",
        "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_ext_factor",
        "yarn_log_multiplier")),
}  # fmt: skip
_SET: dict[str, tuple[str, type]] = {
    "attention.key_length": ("head_dim", int),
    "attn_logit_softcapping": ("attn_logit_softcapping", float),
    "final_logit_softcapping": ("final_logit_softcapping", float),
    "expert_feed_forward_length": ("moe_intermediate_size", int),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size", int),
}
"""Where a configuration has the attribute, it is set to what the file states."""

_EXPERTS_AS_WIDE = {"granitehybrid", "granitemoe", "olmoe"}
"""Whose experts llama.cpp makes as wide as `feed_forward_length` says."""

_NORM_NAMES = ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")

_WINDOWED = {"cohere2", "gemma2", "gemma3", "gemma4"}
"""Where llama.cpp heeds `attention.sliding_window`, and transformers as well."""

_HEEDED_ELSEWHERE = {"exaone4", "lfm2", "olmo2"}
"""Where llama.cpp heeds it, and the torch copy has no windows."""

_QWEN35 = {
    "full_attention_interval",
    "nextn_predict_layers",
    "rope.dimension_sections",
    *(f"ssm.{size}" for size in (
        "conv_kernel", "group_count", "inner_size", "state_size", "time_step_rank")),
}  # fmt: skip
_ALSO_READ = {
    "falcon": {"tensor_data_layout"},
    "cohere2": {"attention.sliding_window_pattern"},
    "gemma2": {"attention.sliding_window_pattern"},
    "gemma3": {"attention.sliding_window_pattern", "rope.freq_base_swa"},
    "gemma4": {
        "attention.key_length_swa",
        "attention.shared_kv_layers",
        "attention.sliding_window_pattern",
        "attention.value_length_swa",
        "embedding_length_per_layer_input",
        "rope.dimension_count_swa",
        "rope.freq_base_swa",
    },
    "glm4moe": {"expert_gating_func", "nextn_predict_layers"},
    "lfm2": {"shortconv.l_cache"},
    "lfm2moe": {"expert_gating_func"},
    "llama": {"tensor_data_layout"},
    "minimax-m2": {"expert_gating_func"},
    "mistral3": {"attention.temperature_scale"},  # of positions beyond the original context
    "qwen35": _QWEN35,
    "qwen35moe": _QWEN35,
    "stablelm": {"use_parallel_residual"},
}
_WIDE_SCALE = {("gemma2", 46), ("gemma3", 62)}
"""The 27B models, by their depth: queries are scaled by n_embd / n_head, not by the head's size."""


def unread(model: Model) -> list[str]:
    """Return the hyper-parameters that no torch copy of this architecture would heed."""
    architecture = model.architecture
    known = {*_SIZES, *_NORMS, *_ROTARY, *_SET, *_ALSO_READ.get(architecture, ())}
    if family := family_of(model):
        known |= {*family.stated}
    if architecture not in _HEEDED_ELSEWHERE:
        known.add("attention.sliding_window")
    if architecture == "granite":  # where it may turn all rotation off
        known.discard("rope.scaling.finetuned")
    return sorted(set(model.hyper_parameters) - known)


def unstated(model: Model) -> list[str]:
    """Return the hyper-parameters that llama.cpp and transformers take other defaults for."""
    needed = {"gemma4": {"final_logit_softcapping"}}.get(model.architecture, set())
    if family := family_of(model):
        needed = {*family.stated}
    return sorted(needed - set(model.hyper_parameters))


def configured(config: Any, model: Model) -> Any:
    """Return transformers' configuration with what the GGUF states and it left at a default.

    Raises:
        ValueError: the GGUF states what such a configuration has no place for.
    """
    places = config.to_dict()
    changes: dict[str, Any] = {}
    for key, (attribute, kind) in _SET.items():
        if (value := model.number(key)) is not None:
            changes[attribute] = kind(value)
    if model.architecture in _EXPERTS_AS_WIDE:
        changes.pop("moe_intermediate_size", None)
    if window := model.number("attention.sliding_window"):
        changes["sliding_window"] = int(window) if model.architecture in _WINDOWED else None
    if epsilon := model.number("attention.layer_norm_epsilon"):
        changes |= dict.fromkeys(_NORM_NAMES, epsilon)
    if pattern := _layer_types(model):
        changes["layer_types"] = pattern
    changes["query_pre_attn_scalar"] = _query_scale(model)
    if "partial_rotary_factor" in (rope := places.get("rope_parameters") or {}):
        changes["rope_parameters"] = {**rope, "partial_rotary_factor": _share_turned(model)}
    known = {name: value for name, value in changes.items() if name in places}
    if model.architecture == "gemma4":
        known |= _gemma4(model)
        places.pop("per_layer_config", None)
    return type(config).from_dict({**places, **known})


def rotary_values(model: Model, sliding: bool = False) -> int:
    """Return how many values of a head are turned."""
    return int(
        (sliding and model.number("rope.dimension_count_swa"))
        or model.number("rope.dimension_count")
        or model.number("attention.key_length")
        or model.n_embd // int(model.number("attention.head_count") or 1)
    )


def _share_turned(model: Model) -> float:
    return rotary_values(model) / _head(model)


def _head(model: Model) -> int:
    n_head = int(model.number("attention.head_count") or 1)
    return int(model.number("attention.key_length") or model.n_embd // n_head)


def _query_scale(model: Model) -> int:
    if (model.architecture, model.n_layer) in _WIDE_SCALE:
        return model.n_embd // int(model.number("attention.head_count") or 1)
    return _head(model)


def _layer_types(model: Model) -> list[str]:
    """Return which blocks have a window, where the file says so: each, or all but every n-th."""
    pattern = _list(model, "attention.sliding_window_pattern")
    if len(pattern) == 1 and pattern[0]:
        pattern = [(il + 1) % pattern[0] for il in range(model.n_layer)]
    return [
        "sliding_attention" if slides else "full_attention" for slides in pattern if any(pattern)
    ]


def _gemma4(model: Model) -> dict[str, Any]:
    """Return what Gemma 4's blocks differ in."""
    widths = _list(model, "feed_forward_length")
    return {
        "head_dim": int(model.number("attention.key_length_swa") or 0),
        "global_head_dim": _head(model),
        "intermediate_size": min(widths),
        "use_double_wide_mlp": max(widths) > min(widths),
        "hidden_size_per_layer_input": int(model.number("embedding_length_per_layer_input") or 0),
        "vocab_size_per_layer_input": model.vocab.n_tokens,
        "num_kv_shared_layers": int(model.number("attention.shared_kv_layers") or 0),
    }


def _list(model: Model, name: str) -> list[Any]:
    """Return a hyper-parameter that is a value, or a list of one for each block."""
    value = model.hyper_parameters.get(name, 0)
    return value if isinstance(value, list) else [value]
