"""Architectures that transformers computes but does not read from a GGUF: read here, by one table.

A configuration is made of what the GGUF states; `tensors` fills what is built of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steerplug.engine.model import Model


@dataclass(frozen=True)
class Family:
    """How an architecture of llama.cpp is read.

    Args:
        model_type: transformers' name for it.
        stated: its hyper-parameters beyond those that all share, and what transformers calls them.
        fixed: attributes that no GGUF states, as llama.cpp has them.
        windowless: no block has a window, whatever transformers' default.
        reordered: queries and keys have their rows paired by neighbours, and transformers pairs
            the halves of a head.
        joined: parameters that gguf's table does not name, and the tensors that they hold, one
            after the other, in the order of names.
        experts: where a block has its experts, if it has any.
        norms_above: what the converter added to the weights of norms.
    """

    model_type: str
    stated: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    windowless: bool = False
    reordered: bool = False
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    experts: str = ""
    norms_above: float = 0.0

    def held(self, parameter: str) -> tuple[str, ...]:
        """Return the tensors of a block that one of its parameters holds, if gguf's table does not.

        Args:
            parameter: by its name within the block, without `.weight`.
        """
        return {
            f"{self.experts}.gate_up_proj": ("ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps"),
            f"{self.experts}.down_proj": ("ffn_down_exps",),
            **self.joined,
        }.get(parameter, ())


_GRANITE = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
_OF_SOME = {"expert_used_count": "num_experts_per_tok"}
_SHARED_MLP = {
    "block_sparse_moe.router": ("ffn_gate_inp",),
    "shared_mlp.input_linear": ("ffn_gate_shexp", "ffn_up_shexp"),
}
_MAMBA = {
    "ssm.conv_kernel": "mamba_d_conv",
    "ssm.group_count": "mamba_n_groups",
    "ssm.inner_size": "mamba_d_ssm",
    "ssm.state_size": "mamba_d_state",
    "ssm.time_step_rank": "mamba_n_heads",
}
FAMILIES = {
    "cohere2": Family("cohere2", {"logit_scale": "logit_scale"}),
    "command-r": Family("cohere", {"logit_scale": "logit_scale"}),
    "ernie4_5": Family("ernie4_5", fixed={"use_bias": False}),
    "ernie4_5-moe": Family(
        "ernie4_5_moe",
        {
            "expert_count": "moe_num_experts",
            "expert_used_count": "moe_k",
            "expert_shared_count": "moe_num_shared_experts",
            "interleave_moe_layer_step": "moe_layer_interval",
            "leading_dense_block_count": "moe_layer_start_index",
        },
        fixed={"use_bias": False},
        joined={"mlp.gate.moe_statics.e_score_correction_bias": ("exp_probs_b.bias",)},
        experts="mlp.experts",
    ),
    "exaone4": Family("exaone4", windowless=True),
    "falcon-h1": Family("falcon_h1", _MAMBA),
    "gemma": Family("gemma", norms_above=1.0),
    "glm4": Family("glm4"),
    "glm4moe": Family(
        "glm4_moe",
        {
            **_OF_SOME,
            "expert_count": "n_routed_experts",
            "expert_shared_count": "n_shared_experts",
            "expert_weights_norm": "norm_topk_prob",
            "expert_weights_scale": "routed_scaling_factor",
            "leading_dense_block_count": "first_k_dense_replace",
        },
        joined={"mlp.gate.e_score_correction_bias": ("exp_probs_b.bias",)},
        experts="mlp.experts",
    ),
    "granite": Family("granite", _GRANITE, reordered=True),
    "granitehybrid": Family(
        "granitemoehybrid",
        {**_GRANITE, **_MAMBA, "feed_forward_length": "shared_intermediate_size"},
        fixed={"num_local_experts": 0},
        reordered=True,
        joined={
            "shared_mlp.input_linear": ("ffn_gate", "ffn_up"),
            "shared_mlp.output_linear": ("ffn_down",),
        },
    ),
    "granitemoe": Family(
        "granitemoeshared",
        {
            **_GRANITE,
            **_OF_SOME,
            "expert_count": "num_local_experts",
            "expert_shared_feed_forward_length": "shared_intermediate_size",
        },
        reordered=True,
        joined=_SHARED_MLP,
        experts="block_sparse_moe.experts",
    ),
    "granitehybrid-experts": Family(
        "granitemoehybrid",
        {
            **_GRANITE,
            **_MAMBA,
            **_OF_SOME,
            "expert_count": "num_local_experts",
            "expert_shared_feed_forward_length": "shared_intermediate_size",
        },
        reordered=True,
        joined=_SHARED_MLP,
        experts="block_sparse_moe.experts",
    ),
    "hunyuan-dense": Family("hunyuan_v1_dense"),
    "lfm2moe": Family(
        "lfm2_moe",
        {
            **_OF_SOME,
            "expert_count": "num_experts",
            "leading_dense_block_count": "num_dense_layers",
            "shortconv.l_cache": "conv_L_cache",
        },
        joined={"feed_forward.expert_bias": ("exp_probs_b.bias",)},
        experts="feed_forward.experts",
    ),
    "mistral3": Family("mistral", fixed={"sliding_window": None}, reordered=True),
    "llama-experts": Family(
        "mixtral",
        {**_OF_SOME, "expert_count": "num_local_experts"},
        fixed={"sliding_window": None},
        reordered=True,
        experts="mlp.experts",
    ),
    "olmo2": Family("olmo2"),
    "olmoe": Family(
        "olmoe",
        {**_OF_SOME, "expert_count": "num_experts"},
        experts="mlp.experts",
    ),
    "phi2": Family("phi"),
    "qwen35": Family("qwen3_5_text"),
    "qwen35moe": Family("qwen3_5_moe_text", experts="mlp.experts"),
    "seed_oss": Family("seed_oss", fixed={"attention_out_bias": False}),
    "smollm3": Family("smollm3", reordered=True),
}

_OWN_CONFIGURATION = {"qwen35", "qwen35moe"}
"""Of which transformers reads the configuration itself, though its weights not without more."""

_SHARED = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}


def family_of(model: Model) -> Family | None:
    """Return how a model is read here, or None where transformers reads it by itself."""
    own = FAMILIES.get(model.architecture)
    mixed = FAMILIES.get(f"{model.architecture}-experts")
    return mixed if mixed and model.number("expert_count") else own


def configuration(model: Model) -> Any:
    """Return transformers' configuration for a model of one of the families."""
    from transformers import AutoConfig

    if model.architecture in _OWN_CONFIGURATION:
        return AutoConfig.from_pretrained(model.path.parent, gguf_file=model.path.name)
    family, n_head = family_of(model), model.hyper_parameters["attention.head_count"]
    assert family is not None
    tensors = model.header.tensors
    stated = {
        attribute: model.hyper_parameters[name]
        for name, attribute in {**_SHARED, **family.stated}.items()
        if name in model.hyper_parameters
    }
    return AutoConfig.for_model(
        family.model_type,
        **{
            "num_hidden_layers": model.n_layer,
            "head_dim": model.n_embd // n_head,
            "vocab_size": model.vocab.n_tokens,
            "tie_word_embeddings": "output.weight" not in tensors,
            "attention_bias": "blk.0.attn_q.bias" in tensors,
            "use_qk_norm": "blk.0.attn_q_norm.weight" in tensors,
            **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
            **stated,
            **family.fixed,
            **(_windowless(model) if family.windowless else {}),
            **(_mamba(model) if "ssm.inner_size" in model.hyper_parameters else {}),
            **(_convolved(model) if "shortconv.l_cache" in model.hyper_parameters else {}),
        },
    )


def _windowless(model: Model) -> dict[str, Any]:
    return {"sliding_window": None, "layer_types": ["full_attention"] * model.n_layer}


def _convolved(model: Model) -> dict[str, Any]:
    """Return which blocks attend, and which convolve instead."""
    n_keys = model.hyper_parameters["attention.head_count_kv"]
    kinds = ["full_attention" if n else "conv" for n in n_keys]
    return {"layer_types": kinds, "num_key_value_heads": max(n_keys)}


def _mamba(model: Model) -> dict[str, Any]:
    """Return how blocks with a running state are built, and which blocks attend instead."""
    stated = model.hyper_parameters
    shape = {
        "mamba_d_head": stated["ssm.inner_size"] // stated["ssm.time_step_rank"],
        "mamba_expand": stated["ssm.inner_size"] // model.n_embd,
        "mamba_rms_norm": "blk.0.ssm_norm.weight" in model.header.tensors,
        "position_embedding_type": "rope" if stated.get("rope.scaling.finetuned", True) else None,
    }
    n_keys = stated["attention.head_count_kv"]
    if not isinstance(n_keys, list):  # all blocks do both
        return shape
    kinds = ["attention" if n else "mamba" for n in n_keys]
    return {**shape, "layer_types": kinds, "num_key_value_heads": max(n_keys)}
