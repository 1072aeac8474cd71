"""llama.cpp: models, the steering hook, and generation; only this folder speaks to it."""
