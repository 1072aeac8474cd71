"""Names that llama.cpp's users know and that are no settings here: for each, what to do instead.

steerplug sets some of them itself, because steering depends on it; some belong to each request, and
some it does not do.
"""

from collections.abc import Iterable

from steerplug.errors import ModelError, nearest

_BATCH = "one decode is one batch, of which steering must know every row; n_batch sets its size"
_UNIFIED = "all sequences share one cache, which lets them share prompts; leave it out"
_CALLBACK = "steering itself uses llama.cpp's callback"
_TEXTS = "steerplug generates texts and gives no embeddings; use llama.cpp itself for them"
_DRAFTS = "speculation with a draft is out of scope; leave it out, the model answers alone"
_IMAGES = (
    "images and sounds are not read; texts are, by the same GGUF without its projector: leave it "
    "out"
)
_VECTORS = "name its file in the steering, such as `0.8*FILE.gguf`; see `steerplug import`"
_ROWS = "logits are kept where they are needed; ask for logprobs with a request"
_EXPERTS = r"write override_tensor, such as \.ffn_(up|down|gate)_exps\.=CPU"
_MEMORY = "write use_mmap and use_mlock, or --no-mmap and --mlock"

HINTS: dict[str, str] = {
    "n_ubatch": _BATCH, "ubatch_size": _BATCH, "ub": _BATCH,
    "kv_unified": _UNIFIED, "no_kv_unified": _UNIFIED, "kvu": _UNIFIED,
    "cb_eval": _CALLBACK, "cb_eval_user_data": _CALLBACK,
    "abort_callback": "a reply ends when its iterator is closed, or by its timeout",
    "embeddings": _TEXTS, "embedding": _TEXTS, "pooling_type": _TEXTS, "pooling": _TEXTS,
    "attention_type": _TEXTS, "attention": _TEXTS, "reranking": _TEXTS, "rerank": _TEXTS,
    "draft_model": _DRAFTS, "model_draft": _DRAFTS, "md": _DRAFTS, "draft": _DRAFTS,
    "draft_max": _DRAFTS, "draft_min": _DRAFTS, "draft_n": _DRAFTS, "spec_type": _DRAFTS,
    "spec_draft_model": _DRAFTS, "hf_repo_draft": _DRAFTS, "hfd": _DRAFTS,
    "num_pred_tokens": _DRAFTS,
    "mmproj": _IMAGES, "mm": _IMAGES, "mmproj_url": _IMAGES, "mmproj_path": _IMAGES,
    "clip_model_path": _IMAGES, "chat_handler": _IMAGES, "image": _IMAGES, "audio": _IMAGES,
    "control_vector": _VECTORS, "control_vector_scaled": _VECTORS,
    "control_vector_layer_range": _VECTORS,
    "logits_all": _ROWS, "n_outputs_max": _ROWS, "vocab_only": "replies need the weights as well",
    "n_seq_max": "write n_seq", "n_parallel": "write n_seq", "parallel": "write n_seq",
    "np": "write n_seq",
    "kv_overrides": "write override_kv", "override_tensors": "write override_tensor",
    "tensor_buft_overrides": "write override_tensor",
    "cpu_moe": _EXPERTS, "n_cpu_moe": _EXPERTS, "ncmoe": _EXPERTS, "cmoe": _EXPERTS,
    "lora_path": "write lora",
    "lora_base": "adapters go with any quantisation; leave it out",
    "lora_scale": "write lora as FILE:SCALE", "lora_scaled": "write lora as FILE:SCALE",
    "chat_format": "write chat_template, with a text in Jinja or its file",
    "chat_template_file": "write chat_template, which takes a file as well",
    "jinja": "chat templates are always read as Jinja", "no_jinja": "chat templates are Jinja here",
    "ctx_size": "write n_ctx", "threads": "write n_threads", "batch_size": "write n_batch",
    "threads_batch": "write n_threads_batch", "gpu_layers": "write n_gpu_layers",
    "ngl": "write n_gpu_layers", "cache_type_k": "write type_k", "cache_type_v": "write type_v",
    "device": "write devices", "rope_scaling": "write rope_scaling_type",
    "rope_scale": "write rope_freq_scale, which is 1 / rope_scale",
    "no_kv_offload": "write offload_kqv", "kv_offload": "write offload_kqv",
    "mmap": "write use_mmap", "mlock": "write use_mlock", "no_mmap": "write use_mmap",
    "load_mode": _MEMORY, "lm": _MEMORY, "direct_io": _MEMORY,
    "repack": "write use_extra_bufts", "no_repack": "write use_extra_bufts",
    "flash_attn_type": "write flash_attn",
    "model_path": "write model",
    "verbose": "llama.cpp's log is the logger `steerplug.llama`",
    "cont_batching": "requests always share batches", "cb": "requests always share batches",
    "cache_reuse": "cells are used again by themselves, where token and steering agree",
    "context_shift": "a conversation ends where its context does; raise n_ctx",
}  # fmt: skip
"""Why a name is no setting, or what to write; names as in Python, flags without their dashes."""

_OF_REQUESTS = ("seed", "temperature", "max_tokens", "stop", "top_k", "top_p", "min_p")

SHORT_FLAGS = ("-md", "-ub", "-mm", "-np", "-kvu", "-hfd", "-lm", "-cb", "-ncmoe", "-cmoe")
"""Flags of llama.cpp among them that a shell would take for a letter's flag and its value."""


def refuse(words: Iterable[str], settings: Iterable[str]) -> None:
    """Refuse the first of these names that is no setting.

    Args:
        words: the names that a caller said.
        settings: those that there are.

    Raises:
        ModelError: there is one.
    """
    settings = list(settings)
    for word in words:
        if word not in settings:
            raise ModelError(sentence(word) or _unknown(word, settings))


def sentence(word: str) -> str | None:
    """Return what to say of a name, or of a flag of llama.cpp's shell; None if nothing is known."""
    reason = HINTS.get(word.strip("-").replace("-", "_"))
    return reason and f"`{word}` is no setting here: {reason}."


def _unknown(word: str, settings: list[str]) -> str:
    if word in _OF_REQUESTS:
        return f"`{word}` is no setting here: it belongs to each request; say it there."
    return f"there is no setting `{word}`{nearest(word, settings) or '; leave it out.'}"
