"""Which tensor of llama.cpp's graph is a block's output, and which of its numbers are h.

Nearly every architecture calls it `l_out` and keeps one h per row. A few widen the residual stream
to several streams of n_embd values each. What steers them is added to every stream, as llama.cpp
adds its own control vectors; h, which gates read and captures hold, is

    active stream       the first one, from which the others are predicted (AltUp)
    hyper-connections   the mean of all, which moves by just what is added to each
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockOutput:
    """Where a block's output is found.

    Args:
        tensor: what llama.cpp calls it, followed by `-` and the number of the block.
        n_streams: how many streams it holds.
        mean: h is the mean of the streams, which lie side by side in each row,
            (n_rows, n_streams, n_embd); else the first one, (n_streams, n_rows, n_embd).
    """

    tensor: str = "l_out"
    n_streams: int = 1
    mean: bool = False


def block_output(architecture: str, metadata: Callable[[str], str | None]) -> BlockOutput:
    """Return where the blocks of an architecture hand out their activations.

    Args:
        architecture: llama.cpp's name for it.
        metadata: looks up a value of the model's file.
    """
    if architecture in _HYPER_CONNECTED:
        n_streams = int(metadata(f"{architecture}.hyper_connection.count") or 1)
        return BlockOutput(_HYPER_CONNECTED[architecture], n_streams, mean=True)
    return _ELSEWHERE.get(architecture, BlockOutput())


_HYPER_CONNECTED = {"deepseek4": "l_last", "hy_v4": "l_out", "qwen4exp": "l_last"}
_ELSEWHERE = {
    "gemma3n": BlockOutput(n_streams=4),  # llama.cpp's own constant, whatever the file says
    "nemotron_h": BlockOutput("nemotron_h_block_out"),
    "nemotron_h_moe": BlockOutput("nemotron_h_block_out"),
    "plamo2": BlockOutput("ffn_residual"),
}
