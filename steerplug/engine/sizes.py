"""How large an engine is unless somebody says; nothing here loads llama.cpp."""

N_CTX = 4096
"""Tokens of one conversation."""

N_BATCH = 512
"""Rows of a decode."""

N_SEQ = 32
"""Sequences, running or kept for later."""

N_SEQ_OF_STATES = 8
"""The same where each has memory of its own: a running state, or sliding windows."""

CHECKPOINT_BYTES = 1_000_000_000
"""Most memory of checkpoints, see `checkpoints`."""

FEWEST_CHECKPOINTS = 4
"""How many checkpoints there may be, however large they are."""
