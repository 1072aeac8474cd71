"""Fields that clients send besides those of `requests`: obeyed by another name, ignored, refused.

Front ends and clients of other servers send many. What leaves the reply as it is may be ignored; it
is listed here, and so is what would change the reply and cannot be obeyed, with the reason. A value
that says "not", such as null, false, 0 or an empty list, asks for nothing.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from steerplug.errors import nearest
from steerplug.server.aliases import ALIASES
from steerplug.server.errors import Refused

IGNORED = frozenset({
    # who asks, for what, and in what order of service
    "user", "user_id", "metadata", "store", "service_tier", "safety_identifier",
    "prompt_cache_key", "moderation", "prompt_cache_retention", "prompt_cache_options",
    "prediction", "priority", "request_id", "id", "chat_id", "session_id", "conversation_id",
    "message_id", "parent_id", "thread_id", "title", "tags", "background_tasks",
    "extra_headers", "extra_query", "timeout",
    # front ends: Open WebUI, SillyTavern, LibreChat, LobeChat, Jan, Continue
    "features", "variables", "tool_ids", "filter_ids", "tool_servers", "model_item",
    "char_name", "user_name", "group_names", "name1", "name2", "type", "api_type", "api_server",
    "legacy_api", "mode", "chat_completion_source", "custom_url", "use_fallback",
    "use_sysprompt", "include_reasoning",
    "show_thoughts", "reverse_proxy", "engine", "endpoint", "endpointType", "spec", "agent_id",
    "truncation_length", "auto_max_new_tokens", "max_tokens_second", "max_context_length",
    "temperature_last", "speculative_ngram", "app_name",
    # routers: OpenRouter, LiteLLM
    "provider", "route", "models", "transforms", "usage", "caching", "ttl", "num_retries",
    "fallbacks", "drop_params", "allowed_openai_params", "custom_llm_provider", "api_base",
    "api_key",
    # how a model is loaded, kept and watched: Ollama, LM Studio, llama.cpp, vLLM
    "keep_alive", "num_ctx", "num_gpu", "num_thread", "num_batch", "num_keep", "main_gpu",
    "low_vram", "use_mmap", "use_mlock", "numa", "ctx_len", "context_length", "ngl", "n_ctx",
    "draft_model", "cache_prompt", "id_slot", "slot_id", "n_cache_reuse", "n_keep", "n_discard",
    "timings_per_token", "return_progress", "response_fields", "backend_sampling", "verbose",
    "parse_tool_calls", "penalize_nl", "penalize_newline", "f16_kv", "logits_all", "vocab_only",
    "adaptive_decay", "stream_id", "speculative.n_max", "speculative.n_min",
    "speculative.p_min", "speculative.type", "speculative.ngram_size_n",
    "speculative.ngram_size_m", "speculative.ngram_m_hits", "spaces_between_special_tokens",
    "guided_decoding_backend", "data_parallel_rank", "smoothing_curve", "rep_pen_slope",
    "dynatemp_low", "dynatemp_high", "decoder_input_details", "details",
})  # fmt: skip
"""Fields that leave the reply as it is."""

IGNORED_IN_MESSAGES = frozenset({
    "annotations", "reasoning_details", "thinking_blocks", "cache_control", "weight", "id",
    "timestamp", "created", "created_at",
    "createdAt", "updatedAt", "model", "status", "metadata", "tool_name", "is_error",
    "finish_reason", "logprobs", "provider_specific_fields", "extra_content", "signature",
    "phase", "channel", "recipient", "usage", "sources", "statusHistory", "parentId",
    "childrenIds",
})  # fmt: skip
IGNORED_IN_PARTS = frozenset({
    "cache_control", "annotations", "citations", "id", "index", "metadata", "logprobs",
    "prompt_cache_breakpoint",
})  # fmt: skip
IGNORED_IN_TOOLS = frozenset({
    "strict", "cache_control", "returns", "examples", "input_examples", "metadata",
    "defer_loading", "id", "name", "description",
})  # fmt: skip
IGNORED_IN_FORMATS = frozenset({
    "strict", "description", "name", "syntax",
})  # fmt: skip

_BIAS = "use logit_bias with the numbers of tokens"
_FORMAT = "send a JSON schema, a regex, a choice or a Lark grammar"
_TEMPLATE = "say what the model's template reads in chat_template_kwargs"
_PENALTY = "use frequency_penalty, presence_penalty, repeat_penalty or DRY"
_CHATS = "it belongs to /v1/chat/completions"
_APART = "thoughts come apart from the answer, in reasoning_content"
_TEXT = "this model reads and writes text only"
_CUT = "use top_k, top_p, min_p, typical_p, top_n_sigma or XTC"

REFUSED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "best_of": ("ask for n replies instead", ()),
    "use_beam_search": ("replies are drawn token by token", ()),
    "num_beams": ("replies are drawn token by token", (1,)),
    "length_penalty": ("it belongs to beam search", (1,)),
    "early_stopping": ("it belongs to beam search", ()),
    "do_sample": ("it is always so; for the likeliest tokens, temperature: 0", (True,)),
    "min_tokens": (f"{_BIAS} to put off an end", ()),
    "min_length": (f"{_BIAS} to put off an end", ()),
    "ignore_eos": (f"{_BIAS} to forbid an end", ()),
    "ban_eos_token": (f"{_BIAS} to forbid an end", ()),
    "stop_token_ids": ("send texts in stop", ()),
    "bad_words": (_BIAS, ()),
    "banned_tokens": (_BIAS, ()),
    "banned_strings": (_BIAS, ()),
    "custom_token_bans": (_BIAS, ()),
    "allowed_token_ids": (_BIAS, ()),
    "logits_processors": (_BIAS, ()),
    "top_a": (_CUT, ()),
    "tfs_z": (_CUT, (1,)),
    "tfs": (_CUT, (1,)),
    "epsilon_cutoff": (_CUT, ()),
    "eta_cutoff": (_CUT, ()),
    "smoothing_factor": ("use dynatemp_range", ()),
    "dynamic_temperature": ("use dynatemp_range", ()),
    "min_keep": (_CUT, (1,)),
    "adaptive_target": (_CUT, (-1,)),
    "skew": (_CUT, ()),
    "no_repeat_ngram_size": (_PENALTY, ()),
    "encoder_repetition_penalty": (_PENALTY, (1,)),
    "repetition_penalty_range": ("use repeat_last_n", ()),
    "rep_pen_range": ("use repeat_last_n", ()),
    "penalty_alpha": (_PENALTY, ()),
    "penalty_prompt": (_PENALTY, ()),
    "guidance_scale": ("steer with a negative strength instead", (1,)),
    "cfg_scale": ("steer with a negative strength instead", (1,)),
    "negative_prompt": ("steer with a negative strength instead", ()),
    "prompt_logprobs": ("logprobs tells how likely the reply's tokens were", ()),
    "n_probs": ("use logprobs", ()),
    "post_sampling_probs": ("use logprobs", ()),
    "return_tokens": ("use logprobs, which tells the tokens", ()),
    "return_token_ids": ("use logprobs, which tells the tokens", ()),
    "return_tokens_as_token_ids": ("use logprobs, which tells the tokens", ()),
    "watermark": ("replies carry none", ()),
    "return_full_text": ("use echo", ()),
    "top_n_tokens": ("use logprobs", ()),
    "truncate_prompt_tokens": ("send a shorter prompt", (-1,)),
    "truncate": ("send a shorter prompt", ()),
    "add_bos_token": ("the model's own way decides", (True,)),
    "add_special_tokens": ("the model's own way decides", (True,)),
    "skip_special_tokens": ("marks of the chat are never text", (True,)),
    "include_stop_str_in_output": ("a stop string ends the reply before it", ()),
    "n_indent": (_FORMAT, ()),
    "guided_whitespace_pattern": (_FORMAT, ()),
    "grammar_lazy": (_FORMAT, ()),
    "grammar_triggers": (_FORMAT, ()),
    "samplers": ("they stand in llama.cpp's own order; leave one out by its setting", ()),
    "sampler_priority": ("they stand in llama.cpp's own order; leave one out by its setting", ()),
    "sampler_order": ("they stand in llama.cpp's own order; leave one out by its setting", ()),
    "lora": ("choose by `steering` what changes the model", ()),
    "lora_request": ("choose by `steering` what changes the model", ()),
    "control_vectors": ("choose by `steering` what changes the model", ()),
    "t_max_predict_ms": ("use max_tokens", (-1,)),
    "system": ("send a message with the role system", ()),
    "system_prompt": ("send a message with the role system", ()),
    "options": ("say its settings beside the messages, not in an object", ()),
    "template": ("the model has its own", ()),
    "chat_template": ("the model has its own", ()),
    "context": ("send the conversation as messages", ()),
    "raw": ("send the text to /v1/completions", ()),
    "continue_": ("use continue_final_message", ()),
    "_continue": ("use continue_final_message", ()),
    "character": ("describe it in a message with the role system", ()),
    "instruction_template": ("the model has its own", ()),
    "files": ("put their text into a message", ()),
    "documents": ("put them into a message", ()),
    "enable_thinking": (_CHATS, ()),
    "reasoning_effort": (_CHATS, ()),
    "reasoning": (_CHATS, ()),
    "thinking": (_CHATS, ()),
    "think": (_CHATS, ()),
    "thinking_budget_tokens": (_CHATS, (-1,)),
    "thinking_forced_open": (_TEMPLATE, ()),
    "reasoning_format": (_APART, ("auto", "deepseek")),
    "reasoning_in_content": (_APART, ()),
    "verbosity": ("ask for it in a message, or by `steering`", ("medium",)),
    "modalities": (_TEXT, (["text"],)),
    "audio": (_TEXT, ()),
    "images": (_TEXT, ()),
    "image_data": (_TEXT, ()),
    "multi_modal_data": (_TEXT, ()),
    "mm_processor_kwargs": (_TEXT, ()),
    "web_search_options": ("offer a tool that searches", ()),
    "enable_web_search": ("offer a tool that searches", ()),
    "request_images": (_TEXT, ()),
    "plugins": ("offer a tool", ()),
    "functions": ("send `tools`, which came in their place", ()),
    "function_call": ("send `tool_choice`, which came in its place", ("auto", "none")),
    "cache_salt": ("--separate-keys keeps the prompts of keys apart", ()),
    "kv_transfer_params": ("the cache is this server's own", ()),
    "vllm_xargs": ("say its settings beside the messages", ()),
    "extra_body": ("say its settings beside the messages", ()),
    "params": ("say its settings beside the messages", ()),
    "preset": ("say its settings beside the messages", ()),
    "custom_params": ("say its settings beside the messages", ()),
    "echo": ("it belongs to /v1/completions", ()),
    "suffix": ("this model cannot write towards one", ()),
}  # fmt: skip
"""Fields that would change the reply: what to do instead, and values that ask for nothing."""

_ASKS_BY_NO = frozenset(
    {"skip_special_tokens", "add_special_tokens", "add_bos_token", "do_sample"}
)
"""Fields whose false or 0 changes the reply."""


def renamed(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body whose fields have the names of `requests`.

    Raises:
        Refused: two names of one field say different things.
    """
    fields = {name: value for name, value in body.items() if name not in ALIASES}
    for alias, name in ALIASES.items():
        value = body.get(alias)
        if value is None or (name == "stop" and not value):
            continue
        if fields.get(name) not in (None, [], "", value):
            raise Refused(
                f"`{alias}` and `{name}` are one setting and say {value!r:.40} and "
                f"{fields[name]!r:.40}; send one of them.", param=alias,
            )  # fmt: skip
        fields[name] = value
    return fields


def check(
    model: BaseModel, ignored: frozenset[str] = IGNORED, where: str = "", param: str | None = None
) -> None:
    """Refuse fields that would change the reply, or that nobody here knows.

    Args:
        model: a body or a part of it, with what it says besides its own fields.
        ignored: fields that leave the reply as it is.
        where: how errors name the part.
        param: the field of the body that it belongs to.

    Raises:
        Refused: one of them cannot be obeyed.
    """
    for name, value in (model.model_extra or {}).items():
        if name in ignored or _asks_nothing(name, value):
            continue
        shown = name[:80]
        if name in REFUSED:
            reason = REFUSED[name][0]
            raise Refused(f"{where}{shown} is not served: {reason}.", param=param or name)
        guess = nearest(name, type(model).model_fields) or "; leave it out."
        raise Refused(f"{where}there is no field `{shown}`{guess}", param=param or shown)


def _asks_nothing(name: str, value: Any) -> bool:
    if value is None:
        return True
    neutral = REFUSED[name][1] if name in REFUSED else ()
    if any(type(value) in (type(x), int, float) and value == x for x in neutral):
        return True
    return name not in _ASKS_BY_NO and not value

