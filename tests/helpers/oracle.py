"""What nobody here wrote: transformers on a GGUF, steered by forward hooks."""

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from steerplug.fit.distill.gguf_reading import TensorReader
from steerplug.steering.value import Array, Delta, Term


@contextlib.contextmanager
def reading_once(reader: Callable[..., gguf.GGUFReader] = gguf.GGUFReader) -> Iterator[None]:
    """Let transformers read a GGUF's header once; by itself it does for every question it has."""
    with pytest.MonkeyPatch.context() as patch:
        for name, read in (
            ("GGUFReader", reader), ("get_tensor_name_map", gguf.get_tensor_name_map),
        ):  # fmt: skip
            patch.setattr(gguf, name, functools.cache(read))
        yield


class Oracle:
    """transformers on a GGUF, with the intervention of steering/value.py in its own words."""

    def __init__(self, path: Path) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        with warnings.catch_warnings(), reading_once(TensorReader):
            warnings.simplefilter("ignore")
            from transformers import AutoConfig, AutoModelForCausalLM
            from transformers.initialization import no_init_weights
            from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
            with no_init_weights():
                model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            # What from_pretrained(gguf_file=...) does, without its need for `accelerate`.
            loaded = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
        absent = model.load_state_dict(loaded["tensors"], strict=False)
        model.tie_weights()
        assert not absent.unexpected_keys
        assert set(absent.missing_keys) <= {"lm_head.weight"}
        if absent.missing_keys:
            assert config.tie_word_embeddings
        self.model: Any = model.eval()

    def logits(self, tokens: Sequence[int], rows: Sequence[Sequence[tuple[Term, int]]]) -> Array:
        """All rows; `rows[r]`: the terms of row r, with the position each has in scope front."""
        with contextlib.ExitStack() as stack, torch.no_grad():
            for il, block in enumerate(self.model.model.layers):
                handle = block.register_forward_hook(self._intervention(il, rows))
                stack.callback(handle.remove)
            result: Array = self.model(torch.tensor([list(tokens)])).logits[0].numpy()
            return result

    @staticmethod
    def _intervention(
        il: int, rows: Sequence[Sequence[tuple[Term, int]]]
    ) -> Callable[[Any, Any, Any], Any]:
        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            change = torch.zeros_like(hidden)
            for row, terms in enumerate(rows):
                h = hidden[0, row]
                for term, position in terms:
                    if il in term.steering.layers:
                        change[0, row] += term.strength * delta_of(
                            term.steering.layers[il], h, position
                        )
            return (hidden + change, *output[1:]) if isinstance(output, tuple) else hidden + change

        return hook


def delta_of(delta: Delta, h: torch.Tensor, position: int) -> torch.Tensor:
    z, W, b, Z = (torch.from_numpy(np.array(a)) for a in (delta.z, delta.W, delta.b, delta.Z))
    read = h * torch.rsqrt(h.pow(2).mean()) if delta.norm == "rms" else h
    units = torch.nn.functional.linear(read, W, b)
    units = torch.relu(units) if delta.act == "relu" else units
    return z[position] + units @ Z


def relative(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
