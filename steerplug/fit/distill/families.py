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
        joined: parameters that hold several tensors, one after the other, in the order of names.
        norms_above: what the converter added to the weights of norms.
    """

    model_type: str
    stated: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    windowless: bool = False
    reordered: bool = False
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norms_above: float = 0.0


_GRANITE = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
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
    "exaone4": Family("exaone4", windowless=True),
    "falcon-h1": Family("falcon_h1", _MAMBA),
    "gemma": Family("gemma", norms_above=1.0),
    "glm4": Family("glm4"),
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
    "hunyuan-dense": Family("hunyuan_v1_dense"),
    "mistral3": Family("mistral", fixed={"sliding_window": None}, reordered=True),
    "olmo2": Family("olmo2"),
    "phi2": Family("phi"),
    "qwen35": Family("qwen3_5_text"),
    "seed_oss": Family("seed_oss", fixed={"attention_out_bias": False}),
    "smollm3": Family("smollm3", reordered=True),
}

_OWN_CONFIGURATION = {"qwen35"}
"""Of which transformers reads the configuration itself, though its weights not without more."""

_SHARED = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}


def configuration(model: Model) -> Any:
    """Return transformers' configuration for a model of one of the families."""
    from transformers import AutoConfig

    if model.architecture in _OWN_CONFIGURATION:
        return AutoConfig.from_pretrained(model.path.parent, gguf_file=model.path.name)
    family, n_head = FAMILIES[model.architecture], model.hyper_parameters["attention.head_count"]
    tensors = model.header.tensors
    stated = {
        attribute: model.hyper_parameters[name]
        for name, attribute in {**_SHARED, **family.stated}.items()
        if name in model.hyper_parameters
    }
    return AutoConfig.for_model(
        family.model_type,
        **{
            "head_dim": model.n_embd // n_head,
            "vocab_size": model.vocab.n_tokens,
            "tie_word_embeddings": "output.weight" not in tensors,
            "attention_bias": "blk.0.attn_q.bias" in tensors,
            **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
            **stated,
            **family.fixed,
            **(_windowless(model) if family.windowless else {}),
            **(_mamba(model) if "ssm.inner_size" in model.hyper_parameters else {}),
        },
    )


def _windowless(model: Model) -> dict[str, Any]:
    return {"sliding_window": None, "layer_types": ["full_attention"] * model.n_layer}


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
