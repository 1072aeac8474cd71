"""Rows of a GGUF's tensor as numbers, by ggml's own functions: whole types, and all quantised ones.

ggml's table of types is a structure whose layout changes; its functions are found by their names.
"""

from collections.abc import Callable
from functools import cache

from steerplug.engine import ggml
from steerplug.errors import EngineError

Convert = Callable[[int, int, int], None]
"""(address of n packed values, address of n numbers to be written, n)"""

_WHOLE = {"F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}


@cache
def dequantiser(kind: str) -> Convert | None:
    """Return what turns rows of a type into float32, or None where ggml has no such function.

    Args:
        kind: of the values, by ggml's name: `Q4_K`. Rows are blocks of it, one after another.
    """
    try:
        return _converter(_WHOLE.get(kind, f"dequantize_row_{kind.lower().replace('_k', '_K')}"))
    except EngineError:
        return None


@cache
def to_bfloat16() -> Convert:
    """Return what rounds float32 to bfloat16, to the nearest even one.

    Raises:
        EngineError: ggml has no such function.
    """
    return _converter("ggml_fp32_to_bf16_row")


def _converter(name: str) -> Convert:
    converter: Convert = ggml.function(name)
    return converter
