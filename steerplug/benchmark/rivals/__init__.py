"""Why not cache the prompt, why not LoRA, why not a soft prompt: at equal lessons and loss.

Nothing here is on a user's path; it needs the extra `fit`.

    soft_prompt, kv_prefix, lora   what is trained beside `psr` and `const`
    prefixed                       what the first two share: cells behind the first token
    course, tuning                 all trained alike; each rival's rate is sought
    cells                          cells in llama.cpp's cache that no token made
    carrier                        each carrier in llama.cpp, as a user would use it
    measuring, timing              what it keeps of the prompt, and what it costs
    facts                          what its kind can do, whatever it was trained on
    trained_carriers, comparison   all of it, in order
"""
