"""What tiny random models of each architecture hold: hyper-parameters in llama.cpp's own words.

A spec says no more than llama.cpp's loader needs to name every tensor and its shape; see
`tiny_models`. Optional tensors that no released model has are left out, those that every released
model has are kept. Sizes are as small as an architecture allows, windows short enough that a text
of some sentences crosses them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from steerplug.steering.value import Array

N_EMBD, N_LAYER, N_HEAD, N_KV, N_FF, N_CTX, WINDOW = 64, 4, 4, 2, 128, 2048, 16
HEAD = N_EMBD // N_HEAD


@dataclass(frozen=True)
class Spec:
    """One tiny model.

    Args:
        arch: `general.architecture`.
        keys: hyper-parameters; `ARCH.` is put before each. None leaves one of `PLAIN` out.
        drop: patterns of optional tensors that are left out.
        keep: patterns of tensors that are kept although `OPTIONAL` names them.
        whole: metadata with whole names.
        later: keys that the file holds, but that llama.cpp is not told when asked for tensors.
        values: tensors that are not random.
        fused: one tensor `attn_qkv` in place of three, as the converter writes this architecture.
    """

    arch: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    whole: Mapping[str, Any] = field(default_factory=dict)
    later: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Array] = field(default_factory=dict)
    fused: bool = False

    def but(self, keys: Mapping[str, Any], **changes: Any) -> "Spec":
        """Return the same with other keys besides."""
        return replace(self, keys={**self.keys, **keys}, **changes)


PLAIN = {
    "context_length": N_CTX,
    "embedding_length": N_EMBD,
    "block_count": N_LAYER,
    "feed_forward_length": N_FF,
    "attention.head_count": N_HEAD,
    "attention.head_count_kv": N_KV,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": HEAD,
    "rope.freq_base": 10000.0,
}
"""Keys that nearly every transformer has; each spec's own go over them."""

OPTIONAL = (r"\.scale$", r"\.input_scale$", r"\.bias$", r"rope_factors_", r"rope_freqs")

TIED = ("^output.weight",)
BIASES = (r"\.bias$",)
QKV_BIASES = (r"attn_[qkv]\.bias",)
NO_EXPERTS = ("_exps", "_shexp", "ffn_gate_inp")
WITHOUT_HEADS = {
    "attention.head_count": 0,
    "attention.head_count_kv": None,
    "rope.dimension_count": None,
    "rope.freq_base": None,
}
LAYER_NORM = {"attention.layer_norm_epsilon": 1e-5}
ALL_HEADS = {"attention.head_count_kv": N_HEAD}
SLIDING = {"attention.sliding_window": WINDOW}
SOFTMAX, SIGMOID = 1, 2


def heads(n: int) -> dict[str, Any]:
    """Return the keys of heads of n values, all of them rotated."""
    return {"attention.key_length": n, "attention.value_length": n, "rope.dimension_count": n}


def experts(n_ff: int = 32) -> dict[str, Any]:
    return {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": n_ff}


def ssm(state: int, rank: int, group: int | None = None, inner: int = 128) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
        "ssm.group_count": group,
    }


def _llama32_factors() -> Array:
    """Return Llama 3.2's own factors: base 500,000, heads of 64, long waves divided by 32."""
    wave = 2 * np.pi * 500000.0 ** (np.arange(32) / 32)
    smooth = np.clip((8192 / wave - 1) / (4 - 1), 0, 1)
    return np.asarray(1 / ((1 - smooth) / 32 + smooth), np.float32)


SHARED_EXPERT = {"expert_shared_count": 1, "expert_weights_scale": 1.0}
FIRST_IS_DENSE = {"leading_dense_block_count": 1, **SHARED_EXPERT}
MLA = {
    "attention.q_lora_rank": 24,
    "attention.kv_lora_rank": 32,
    "attention.key_length": 40,
    "attention.value_length": 32,
    "attention.key_length_mla": 24,
    "attention.value_length_mla": 16,
    "rope.dimension_count": 8,
}
GRANITE = {
    "attention.scale": 0.25,
    "embedding_scale": 12.0,
    "residual_scale": 0.22,
    "logit_scale": 8.0,
}
QWEN_HYBRID = {
    **heads(HEAD),
    **ssm(32, 4, 2),
    "full_attention_interval": 2,
    "rope.dimension_sections": [3, 3, 2, 0],  # as released: every pair is in one of them
}
NEMOTRON_HYBRID = {
    **LAYER_NORM,
    **ssm(16, 8, 2),
    "attention.head_count_kv": [0, 0, N_KV, 0],
    "feed_forward_length": [0, N_FF, 0, N_FF],
}
SOME_HEADS = {"attention.head_count_kv": [0, N_KV, 0, N_KV]}
ONE_OF_FOUR = {"attention.head_count_kv": [0, N_KV, 0, 0]}
RWKV = {**WITHOUT_HEADS, **LAYER_NORM, "wkv.head_size": 64}  # ggml reads 64 at a time
GEMMA4_BLOCKS = 6
GEMMA3N_BLOCKS = 22  # llama.cpp fixes 20 blocks with a KV cache of their own

LLAMA = Spec("llama", drop=TIED)
QWEN2 = Spec("qwen2", drop=TIED, keep=QKV_BIASES)
QWEN3 = Spec("qwen3", heads(HEAD), drop=(*TIED, "^cls"))
QWEN3_MOE = Spec("qwen3moe", {**heads(HEAD), **experts()})
GEMMA2 = Spec(
    "gemma2",
    {
        **heads(HEAD),
        **SLIDING,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
)
GEMMA3 = Spec("gemma3", {**heads(HEAD), **SLIDING}, drop=(*TIED, "^dense"))
GEMMA4 = Spec(
    "gemma4",
    {
        **heads(HEAD),
        **SLIDING,
        "block_count": GEMMA4_BLOCKS,
        "attention.sliding_window_pattern": [il % 3 != 2 for il in range(GEMMA4_BLOCKS)],
        "attention.key_length_swa": HEAD,
        "attention.value_length_swa": HEAD,
        "embedding_length_per_layer_input": 16,
        "attention.shared_kv_layers": 3,
        "rope.freq_base_swa": 10000.0,
        "rope.dimension_count_swa": HEAD,
        "final_logit_softcapping": 30.0,
    },
    drop=(*TIED, "_exps", "ffn_gate_inp", "_norm_[12]"),
    keep=("layer_output_scale", "^rope_freqs"),
)
GRANITE_HYBRID = Spec(
    "granitehybrid",
    {**GRANITE, **ONE_OF_FOUR, **ssm(16, 8, 1)},
    drop=NO_EXPERTS,
    keep=(r"ssm_.*\.bias",),
)
MISTRAL3 = Spec("mistral3", heads(HEAD), drop=("_exps", "ffn_gate_inp"))
PHI3 = Spec("phi3", fused=True)
QWEN35 = Spec("qwen35", QWEN_HYBRID, drop=TIED, keep=(r"ssm_dt\.bias",))
GLM4_MOE = Spec(
    "glm4moe",
    {
        **heads(HEAD),
        **experts(),
        **FIRST_IS_DENSE,
        "rope.dimension_count": HEAD // 2,
        "expert_weights_norm": True,
        "expert_gating_func": SIGMOID,
    },
    keep=(*QKV_BIASES, "exp_probs_b"),
)
MAMBA_BIASES = (r"ssm_.*\.bias",)

SPECS: dict[str, Spec] = {
    # transformers
    "llama": LLAMA,
    "llama_untied": Spec("llama"),
    "llama_moe": Spec("llama", {"expert_count": 4, "expert_used_count": 2}, drop=("shexp",)),
    "llama3_rope": LLAMA.but({"rope.freq_base": 500000.0}, keep=("^rope_freqs",)),
    "llama32_rope": LLAMA.but(
        {
            "rope.freq_base": 500000.0,
            "embedding_length": 128,
            "attention.head_count": 2,
            "attention.head_count_kv": 1,
            "rope.dimension_count": 64,
        },
        keep=("^rope_freqs",),
        values={"rope_freqs.weight": _llama32_factors()},
    ),
    "llama4": Spec("llama4", {**experts(), "interleave_moe_layer_step": 1}),
    "qwen2": QWEN2,
    "qwen2_yarn": QWEN2.but(
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": N_CTX // 4,
        }
    ),
    "qwen2moe": Spec(
        "qwen2moe", {**experts(), "expert_shared_feed_forward_length": 64}, keep=QKV_BIASES
    ),
    "qwen3": QWEN3,
    "qwen3_128": QWEN3.but(heads(128)),  # as released, wider than n_embd / n_head
    "qwen3moe": QWEN3_MOE,
    "qwen3moe_128": QWEN3_MOE.but({**heads(128), **experts(768)}),
    "gemma": Spec("gemma", heads(HEAD)),
    "gemma2": GEMMA2,
    "gemma2_256": GEMMA2.but(heads(256)),
    "gemma3": GEMMA3,
    "gemma3_256": GEMMA3.but(heads(256)),
    "gemma3_scaled": GEMMA3.but(
        {  # 4B and larger: global blocks at an eighth of the position
            **heads(256),
            "block_count": 6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
            "rope.freq_base": 1000000.0,
        }
    ),
    "gemma3_pattern": GEMMA3.but({"attention.sliding_window_pattern": 2}),
    "gemma3n": Spec(
        "gemma3n",
        {
            **heads(HEAD),
            **SLIDING,
            "block_count": GEMMA3N_BLOCKS,
            "attention.sliding_window_pattern": [il % 5 != 4 for il in range(GEMMA3N_BLOCKS)],
            "embedding_length_per_layer_input": 256,
            "altup.num_inputs": 4,
            "altup.active_idx": 0,
            "activation_sparsity_scale": [0.0] * GEMMA3N_BLOCKS,
            "attention.shared_kv_layers": 2,
        },
        drop=TIED,
    ),
    "gemma4": GEMMA4,
    "gemma4_256": GEMMA4.but(
        {
            **heads(512),
            "attention.key_length_swa": 256,
            "attention.value_length_swa": 256,
            "rope.dimension_count_swa": 256,
            "rope.freq_base": 1000000.0,
        }
    ),
    "mistral3": MISTRAL3,
    "mistral3_yarn": MISTRAL3.but(
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": N_CTX // 4,
            "rope.scaling.yarn_beta_fast": 8.0,
            "rope.scaling.yarn_beta_slow": 2.0,
            "rope.scaling.yarn_log_multiplier": 0.5,
            "attention.temperature_scale": 0.1,
        }
    ),
    "phi2": Spec("phi2", {**LAYER_NORM, **ALL_HEADS}, keep=BIASES),
    "phi3": PHI3,
    "phi3_longrope": PHI3.but(
        {"rope.scaling.original_context_length": N_CTX // 4, "rope.scaling.attn_factor": 1.19},
        keep=("rope_factors_",),
    ),
    "phimoe": Spec("phimoe", experts(), keep=BIASES),
    "gpt_oss": Spec("gpt-oss", {**heads(HEAD), **experts(), **SLIDING}, keep=BIASES),
    "deepseek": Spec("deepseek", {**experts(), **FIRST_IS_DENSE}),
    "deepseek2": Spec(
        "deepseek2",
        {
            **experts(),
            **FIRST_IS_DENSE,
            **MLA,
            "attention.head_count_kv": 1,
            "expert_gating_func": SIGMOID,
            "expert_weights_norm": True,
        },
        drop=("attn_kv_b",),
        keep=("exp_probs_b",),
    ),
    "deepseek4": Spec(
        "deepseek4",
        {
            **heads(64),
            **experts(),
            **FIRST_IS_DENSE,
            **SLIDING,
            "attention.head_count": 8,
            "attention.head_count_kv": 1,
            "embedding_length": 512,
            "rope.dimension_count": 32,
            "attention.q_lora_rank": 64,
            "attention.kv_lora_rank": 64,
            "attention.output_group_count": 8,
            "attention.output_lora_rank": 32,
            "attention.compress_ratios": [0, 0, 4, 128],
            "attention.compress_rope_freq_base": 160000.0,
            "attention.indexer.head_count": 64,
            "attention.indexer.key_length": 128,
            "attention.indexer.top_k": 131072,
            "hyper_connection.count": 4,
            "hyper_connection.sinkhorn_iterations": 2,
            "hyper_connection.epsilon": 1e-6,
            "hash_layer_count": 0,
            "swiglu_clamp_exp": 10.0,
            "expert_weights_norm": True,
            "expert_gating_func": 4,
        },
        keep=(*BIASES, r"\.scale$"),
    ),
    "hy_v4": Spec(
        "hy_v4",
        {
            **experts(),
            **FIRST_IS_DENSE,
            **MLA,
            "attention.head_count_kv": 1,
            "hyper_connection.count": 4,
            "hyper_connection.epsilon": 1e-6,
            "hyper_connection.magnitude": 2.0,
            "expert_gating_func": SIGMOID,
        },
        keep=(*BIASES, r"\.scale$"),
    ),
    "qwen4exp": Spec(
        "qwen4exp",
        {
            **QWEN_HYBRID,
            **experts(),
            "expert_shared_feed_forward_length": 32,
            "hyper_connection.count": 4,
            "hyper_connection.low_rank": 16,
            "attention.indexer.head_count": 4,
            "attention.indexer.key_length": 16,
            "attention.indexer.top_k": 4096,
        },
        keep=(r"ssm_dt\.bias",),
    ),
    "glm4": Spec("glm4", {"rope.dimension_count": HEAD // 2}, keep=QKV_BIASES),
    "glm4moe": GLM4_MOE,
    "glm4moe_mtp": GLM4_MOE.but(  # as released: the last block is no part of the trunk
        {"block_count": N_LAYER + 1}, later={"nextn_predict_layers": 1}
    ),
    "granite": Spec("granite", GRANITE, drop=NO_EXPERTS),
    "granitemoe": Spec(
        "granitemoe", {**GRANITE, **experts(), "expert_shared_feed_forward_length": 64}
    ),
    "olmo2": Spec("olmo2"),
    "olmoe": Spec("olmoe", {**ALL_HEADS, **experts()}),
    "stablelm": Spec(
        "stablelm",
        {**LAYER_NORM, "use_parallel_residual": False, "rope.dimension_count": HEAD // 4},
        drop=(r"attn_[qk]_norm",),
        keep=(r"norm\.bias$",),
    ),
    "cohere2": Spec("cohere2", {**heads(HEAD), **LAYER_NORM, **SLIDING, "logit_scale": 0.25}),
    "command_r": Spec("command-r", {**LAYER_NORM, "logit_scale": 0.25}, drop=(r"attn_[qk]_norm",)),
    "minicpm": Spec("minicpm", drop=NO_EXPERTS),
    "minicpm3": Spec(
        "minicpm3",
        {
            **ALL_HEADS,
            "attention.q_lora_rank": 24,
            "attention.kv_lora_rank": 32,
            "attention.key_length": 24,
            "attention.value_length": 16,
            "rope.dimension_count": 8,
        },
    ),
    "ernie4_5": Spec("ernie4_5"),
    "ernie4_5_moe": Spec(
        "ernie4_5-moe",
        {
            **experts(),
            "expert_shared_count": 1,
            "interleave_moe_layer_step": 1,
            "leading_dense_block_count": 1,
            "expert_shared_feed_forward_length": 32,
        },
        keep=("exp_probs_b",),
    ),
    "hunyuan_dense": Spec("hunyuan-dense", heads(HEAD), drop=TIED),
    "hunyuan_moe": Spec(
        "hunyuan-moe",
        {
            **heads(HEAD),
            **experts(),
            "expert_shared_feed_forward_length": 64,
            "expert_shared_count": 1,
        },
    ),
    "smollm3": Spec("smollm3", drop=TIED),
    "exaone": Spec("exaone"),
    "exaone4": Spec("exaone4"),
    "starcoder2": Spec("starcoder2", LAYER_NORM, drop=TIED, keep=BIASES),
    "gpt2": Spec(
        "gpt2",
        {**LAYER_NORM, **ALL_HEADS, "feed_forward_length": 4 * N_EMBD, "context_length": 1024},
        drop=TIED,
        keep=BIASES,
        fused=True,
    ),
    "gptneox": Spec(
        "gptneox",
        {**LAYER_NORM, **ALL_HEADS, "use_parallel_residual": True},
        keep=BIASES,
        fused=True,
    ),
    "falcon": Spec(
        "falcon",
        {**LAYER_NORM, "attention.head_count_kv": 1, "feed_forward_length": 4 * N_EMBD},
        drop=(*TIED, "attn_norm_2"),
        keep=BIASES,
        fused=True,
    ),
    "bloom": Spec(
        "bloom",
        {**LAYER_NORM, **ALL_HEADS, "feed_forward_length": 4 * N_EMBD},
        drop=TIED,
        keep=BIASES,
        fused=True,
    ),
    "mpt": Spec(
        "mpt",
        {**LAYER_NORM, **ALL_HEADS, "attention.max_alibi_bias": 8.0},
        drop=(*TIED, "ffn.act", "position_embd", r"attn_[qk]_norm"),
        fused=True,
    ),
    "internlm2": Spec("internlm2"),
    "baichuan": Spec("baichuan", ALL_HEADS),
    "chatglm": Spec(
        "chatglm", {"rope.dimension_count": HEAD // 2}, keep=("attn_qkv.bias",), fused=True
    ),
    "nemotron": Spec(
        "nemotron", {**LAYER_NORM, "rope.dimension_count": HEAD // 2}, keep=(r"norm\.bias$",)
    ),
    "seed_oss": Spec("seed_oss", heads(HEAD), keep=QKV_BIASES),
    "apertus": Spec(
        "apertus",
        whole={
            f"xielu.{key}": [value] * N_LAYER
            for key, value in {"alpha_p": 1.0, "alpha_n": 1.0, "beta": 1.0, "eps": 1e-6}.items()
        },
    ),
    "bitnet": Spec("bitnet"),
    "dbrx": Spec("dbrx", {**LAYER_NORM, **experts(N_FF), "attention.clamp_kqv": 8.0}, fused=True),
    "grok": Spec(
        "grok",
        {**experts(), "attn_logit_softcapping": 30.0, "final_logit_softcapping": 30.0},
        drop=("ffn_norm_2",),
    ),
    "minimax_m2": Spec(
        "minimax-m2",
        {**heads(HEAD), **experts(), "expert_gating_func": SIGMOID},
        keep=("exp_probs_b",),
    ),
    "bailingmoe2": Spec(
        "bailingmoe2",
        {
            **experts(),
            **FIRST_IS_DENSE,
            "expert_shared_feed_forward_length": 32,
            "expert_weights_norm": True,
            "expert_gating_func": SIGMOID,
        },
        keep=("exp_probs_b",),
    ),
    "mimo2": Spec(
        "mimo2",
        {
            **heads(HEAD),
            **experts(),
            **SLIDING,
            "attention.sliding_window_pattern": [1, 0, 1, 0],
            "rope.freq_base_swa": 10000.0,
        },
        keep=("exp_probs_b",),
    ),
    # recurrent and hybrid
    "mamba": Spec(
        "mamba",
        {**WITHOUT_HEADS, **ssm(16, 4), "feed_forward_length": 0},
        drop=TIED,
        keep=MAMBA_BIASES,
    ),
    "mamba2": Spec(
        "mamba2",
        {**WITHOUT_HEADS, **ssm(16, 8, 2), "feed_forward_length": 0},
        drop=TIED,
        keep=MAMBA_BIASES,
    ),
    "jamba": Spec(
        "jamba",
        {**ONE_OF_FOUR, **ssm(16, 4), "expert_count": 4, "expert_used_count": 2},
        keep=MAMBA_BIASES,
    ),
    "qwen3next": Spec(
        "qwen3next",
        {
            **heads(HEAD),
            **experts(),
            **ssm(32, 4, 2),
            "expert_shared_feed_forward_length": 32,
            "full_attention_interval": 2,
        },
        drop=("ssm_in",),
        keep=(r"ssm_dt\.bias",),
    ),
    "qwen35": QWEN35,
    "qwen35moe": Spec(
        "qwen35moe",
        {**QWEN_HYBRID, **experts(), "expert_shared_feed_forward_length": 32},
        keep=(r"ssm_dt\.bias",),
    ),
    "lfm2": Spec("lfm2", {**SOME_HEADS, "shortconv.l_cache": 3}, drop=(*TIED, "^dense")),
    "lfm2moe": Spec(
        "lfm2moe",
        {
            **SOME_HEADS,
            **experts(),
            "shortconv.l_cache": 3,
            "leading_dense_block_count": 1,
            "expert_gating_func": SIGMOID,
        },
        drop=(*TIED, "^dense"),
        keep=("exp_probs_b",),
    ),
    "falcon_h1": Spec(
        "falcon-h1", {**heads(HEAD), **ssm(16, 8, 1)}, drop=("ssm_norm",), keep=MAMBA_BIASES
    ),
    "granitehybrid": Spec(
        "granitehybrid",
        {
            **GRANITE,
            **ONE_OF_FOUR,
            **ssm(16, 8, 1),
            **experts(),
            "expert_shared_feed_forward_length": 64,
        },
        drop=(r"ffn_(gate|up|down)\.weight",),
        keep=MAMBA_BIASES,
    ),
    "granitehybrid_dense": GRANITE_HYBRID,  # of the small ones
    "granitehybrid_nope": GRANITE_HYBRID.but({"rope.scaling.finetuned": False}),  # as released
    "nemotron_h": Spec("nemotron_h", NEMOTRON_HYBRID, keep=MAMBA_BIASES),
    "nemotron_h_moe": Spec(
        "nemotron_h_moe",
        {
            **NEMOTRON_HYBRID,
            **experts(),
            **SHARED_EXPERT,
            "expert_shared_feed_forward_length": 32,
            "expert_weights_norm": True,
        },
        drop=("ffn_latent",),
        keep=(*MAMBA_BIASES, "exp_probs_b"),
    ),
    "plamo2": Spec("plamo2", {**heads(HEAD), **SOME_HEADS, **ssm(16, 4, 0)}, keep=MAMBA_BIASES),
    "kimi_linear": Spec(
        "kimi-linear",
        {
            **experts(),
            **FIRST_IS_DENSE,
            **MLA,
            "attention.head_count_kv": [0, 1, 0, 1],
            "kda.head_dim": 16,
            "ssm.conv_kernel": 4,
            "expert_gating_func": SIGMOID,
        },
        drop=("attn_kv_b",),
        keep=("exp_probs_b", r"ssm_dt\.bias"),
    ),
    "rwkv6": Spec(
        "rwkv6",
        {
            **RWKV,
            "rescale_every_n_layers": 6,
            "time_mix_extra_dim": 8,
            "time_decay_extra_dim": 8,
        },
        keep=(*BIASES, "time_mix"),
    ),
    "rwkv7": Spec(
        "rwkv7",
        {
            **RWKV,
            "attention.decay_lora_rank": 8,
            "attention.iclr_lora_rank": 8,
            "attention.value_residual_mix_lora_rank": 8,
            "attention.gate_lora_rank": 8,
        },
        keep=BIASES,
    ),
}
