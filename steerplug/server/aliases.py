"""What other servers call the fields of `requests`."""

ALIASES = {
    "repetition_penalty": "repeat_penalty", "rep_pen": "repeat_penalty",
    "typ_p": "typical_p", "typical": "typical_p", "nsigma": "top_n_sigma",
    "mirostat_mode": "mirostat", "sampler_seed": "seed", "random_seed": "seed",
    "n_predict": "max_tokens", "num_predict": "max_tokens", "max_new_tokens": "max_tokens",
    "max_length": "max_tokens", "max_output_tokens": "max_tokens",
    "stopping_strings": "stop", "stop_sequences": "stop",
    "stop_sequence": "stop",
    "reasoning_budget": "thinking_budget_tokens", "thinking_budget": "thinking_budget_tokens",
    "reasoning_budget_tokens": "thinking_budget_tokens",
    "thinking_token_budget": "thinking_budget_tokens",
}  # fmt: skip
