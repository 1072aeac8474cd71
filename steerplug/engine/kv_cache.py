"""How much memory a KV cache takes, and which types its cells cannot have, before one is made.

Both are told for models whose blocks are alike; of others, llama.cpp itself says what does not go.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from steerplug.engine.free_memory import available
from steerplug.engine.gguf_header import read_gguf_header
from steerplug.engine.loading import FULL_TYPES, Loading
from steerplug.errors import ModelError

_BITS: Mapping[str, float] = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5,
    "iq4_nl": 4.5,
}  # fmt: skip
_BLOCK = 32
"""How many numbers each of the quantised types packs together."""

Number = Callable[[str], int | None]
"""What a key of the model's own metadata says, such as `attention.head_count`."""


def check_types(path: Path, asked: Loading) -> None:
    """Refuse quantised types whose blocks do not fit the heads of a model in a file.

    Raises:
        ModelError: they do not.
    """
    types = {"type_k": asked.type_k, "type_v": asked.type_v}
    if asked.flash_attn == "off" or all(kind in FULL_TYPES for kind in types.values()):
        return
    header = read_gguf_header(path)
    architecture = header.text("general.architecture")

    def number(key: str) -> int | None:
        value = header.metadata.get(f"{architecture}.{key}")
        return value if isinstance(value, int) else None

    sizes = _head_sizes(number)
    for (name, kind), size in zip(types.items(), sizes, strict=True):
        if kind not in FULL_TYPES and size and size % _BLOCK:
            raise ModelError(
                f"{name} is {kind}, which packs {_BLOCK} numbers together, and the heads of "
                f"{path.name} have {size}; take f16, bf16 or f32."
            )


def check_memory(number: Number, n_layer: int, n_cells: int, asked: Loading) -> None:
    """Refuse a cache that is larger than the memory that is free.

    Args:
        number: what the model says of itself.
        n_layer: how many blocks it has.
        n_cells: how many tokens the cache is to hold.
        asked: how the model was loaded.

    Raises:
        ModelError: how much it takes, and how much there is.
    """
    free, each = available(), _cell_bytes(number, n_layer, asked)
    if free is None or each is None or n_cells * each <= free:
        return
    raise ModelError(
        f"a cache of {n_cells} tokens takes {n_cells * each / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
        f"of memory are free; lower n_ctx (about {int(free / each) // 256 * 256} would fit), or "
        "take a smaller type_k and type_v."
    )


def _cell_bytes(number: Number, n_layer: int, asked: Loading) -> float | None:
    """Return how many bytes a token takes; None where blocks differ in what they keep."""
    keys, values = _head_sizes(number)
    n_heads = number("attention.head_count_kv") or number("attention.head_count")
    others = ["attention.kv_lora_rank", "ssm.state_size"]
    others += [] if asked.swa_full else ["attention.sliding_window"]
    if any(number(key) for key in others) or not (keys and values and n_heads):
        return None
    bits = keys * _BITS[asked.type_k] + values * _BITS[asked.type_v]
    return n_layer * n_heads * bits / 8


def _head_sizes(number: Number) -> tuple[int | None, int | None]:
    """Return how many numbers the keys and the values of a head have."""
    width, n_heads = number("embedding_length"), number("attention.head_count")
    usual = width // n_heads if width and n_heads else None
    return number("attention.key_length") or usual, number("attention.value_length") or usual
