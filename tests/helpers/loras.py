"""A tiny LoRA adapter for `write_tiny_llama`, and what it adds to weights when it is merged."""

from pathlib import Path

import gguf
import numpy as np

from steerplug.steering.value import Array

ALPHA, RANK = 8.0, 2


def write_lora(
    path: Path, *, architecture: str = "llama", n_embd: int = 64, alpha: float = ALPHA,
    tensors: tuple[str, ...] = ("blk.1.attn_q.weight", "blk.3.ffn_up.weight"), n_ff: int = 160,
    seed: int = 5, kind: str = "adapter", dtype: type = np.float32,
) -> dict[str, Array]:  # fmt: skip
    """Write an adapter; return what it adds to each weight at scale 1, (rows, columns)."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    if isinstance(alpha, int):
        writer.add_uint32("adapter.lora.alpha", alpha)
    else:
        writer.add_float32("adapter.lora.alpha", alpha)
    added = {}
    for name in tensors:
        rows = n_ff if "ffn_up" in name else n_embd
        a, b = rng.normal(0, 0.2, (RANK, n_embd)), rng.normal(0, 0.2, (rows, RANK))
        writer.add_tensor(f"{name}.lora_a", a.astype(dtype))
        writer.add_tensor(f"{name}.lora_b", b.astype(dtype))
        added[name] = np.asarray(alpha / RANK * b @ a, np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return added
