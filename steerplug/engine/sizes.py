"""How large an engine is unless somebody says; nothing here loads llama.cpp."""

N_CTX = 4096
"""Tokens of one conversation."""

N_SEQ = 32
"""Sequences, running or kept for later."""
