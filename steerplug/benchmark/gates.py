"""Steering that costs what a psr preset costs and leaves the text ordinary: for timing only."""

import numpy as np

from steerplug.engine.model import Model
from steerplug.steering.value import Delta, Steering


def gates(model: Model, seed: int = 0) -> Steering:
    """Return a gate (k = 1) at every block, open for half of all activations, and small."""
    rng, n_embd = np.random.default_rng(seed), model.n_embd
    deltas = {}
    for il in range(model.n_layer):
        read = rng.normal(size=(1, n_embd)).astype(np.float32) / n_embd**0.5
        write = 1e-3 * rng.normal(size=(1, n_embd)).astype(np.float32)
        deltas[il] = Delta.gated(read, np.full(1, 4, np.float32), write)
    return Steering(f"gates-{seed}", n_embd, model.n_layer, deltas)
