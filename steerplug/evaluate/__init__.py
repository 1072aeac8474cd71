"""Proof of how well a preset does on a model: measured in llama.cpp, on prompts it never saw."""
