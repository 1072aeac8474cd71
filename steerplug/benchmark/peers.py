"""What people use today, to compare: llama-cpp-python, its control vectors, ChatLlamaCpp, repeng.

The only place outside `engine` that speaks to llama.cpp, and outside `fit.distill` to torch.
"""

import ctypes
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from steerplug.engine.context import Context
from steerplug.engine.loading import (
    CACHE_TYPES,
    NUMA,
    ROPE_SCALINGS,
    SETTINGS,
    SPLIT_MODES,
    Loading,
)
from steerplug.engine.model import Model
from steerplug.engine.setting_values import parsed
from steerplug.errors import EngineError


class ControlVector:
    """A constant vector at every block, as llama.cpp itself applies it: to a whole context.

    llama.cpp steers blocks 1 and above; the vector of block 0 it leaves out.
    """

    def __init__(self, model: Model, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._n_embd, self._n_layer = model.n_embd, model.n_layer
        shape = model.n_layer - 1, model.n_embd
        self._values = 1e-3 * rng.normal(size=shape).astype(np.float32)

    def set(self, context: Context) -> None:
        """Let a context apply it from now on."""
        from llama_cpp import llama_cpp as llama

        data = self._values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        code = llama.llama_set_adapter_cvec(
            context.handle, data, self._values.size, self._n_embd, 1, self._n_layer - 1
        )
        if code:
            raise EngineError(f"llama.cpp refuses a control vector (code {code}).")


def loaded_alike(loading: Loading) -> dict[str, Any]:
    """Return how llama-cpp-python is told what was said of a loading, by its own names.

    Raises:
        EngineError: it cannot be told.
    """
    said = {
        name: value for name, value in vars(loading).items() if value != SETTINGS[name].default
    }
    for name in ("override_tensor", "devices", "use_extra_bufts", "lora"):
        if name in said and (name != "lora" or len(loading.lora) > 1):
            raise EngineError(
                f"{name} is set, and llama-cpp-python, which is compared with, cannot be told so; "
                "leave it out."
            )
    told = {name: said[name] for name in _AS_THEY_ARE if name in said}
    told |= {name: numbers[said[name]] for name, numbers in _BY_NUMBER.items() if name in said}
    if "flash_attn" in said:
        told["flash_attn"] = loading.flash_attn == "on"
    if loading.tensor_split:
        told["tensor_split"] = list(loading.tensor_split)
    if loading.override_kv:
        told["kv_overrides"] = dict(map(parsed, loading.override_kv))
    for path, scale in loading.lora:
        told |= {"lora_path": path, "lora_scale": scale}
    return told


_AS_THEY_ARE = (
    "n_gpu_layers", "main_gpu", "use_mmap", "use_mlock", "offload_kqv", "op_offload", "swa_full",
    "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast",
    "yarn_beta_slow", "yarn_orig_ctx",
)  # fmt: skip
_BY_NUMBER: Mapping[str, Mapping[str, int]] = {
    "type_k": CACHE_TYPES, "type_v": CACHE_TYPES, "split_mode": SPLIT_MODES, "numa": NUMA,
    "rope_scaling_type": ROPE_SCALINGS,
}  # fmt: skip


class PlainLlama:
    """llama-cpp-python's own `Llama`: one request at a time, prompts with a system message."""

    def __init__(self, model: Model, n_ctx: int, n_threads: int) -> None:
        from llama_cpp import Llama

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._llama = Llama(
                str(model.path), n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads,
                n_batch=model.loading.n_batch, verbose=False, **loaded_alike(model.loading),
            )  # fmt: skip

    def forget(self) -> None:
        """Drop the prefix it keeps of its last request."""
        self._llama.reset()

    def reply(self, tokens: tuple[int, ...], n: int, seed: int = 0) -> int:
        """Generate at most n tokens at temperature 1; return how many came."""
        completion = self._llama.create_completion(
            list(tokens), max_tokens=n, temperature=1.0, seed=seed
        )
        return int(completion["usage"]["completion_tokens"])

    def close(self) -> None:
        """Free it."""
        self._llama.close()


class PlainChat:
    """langchain-community's `ChatLlamaCpp`, which answers one at a time, greedily."""

    def __init__(self, chat: Any) -> None:
        self._chat = chat

    @classmethod
    def of(cls, model: Model, n_ctx: int, n_threads: int, n: int) -> Self | None:
        """Return one whose replies have at most n tokens; None without the package."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that nobody looks after it any more
            try:
                from langchain_community.chat_models import ChatLlamaCpp
            except ImportError:
                return None
            return cls(ChatLlamaCpp(
                model_path=str(model.path), n_ctx=n_ctx, n_batch=model.loading.n_batch,
                n_threads=n_threads, model_kwargs={
                    "n_threads_batch": n_threads, **loaded_alike(model.loading)
                }, max_tokens=n, temperature=0.0,
                repeat_penalty=1.0, verbose=False,
            ))  # fmt: skip

    def forget(self) -> None:
        """Drop the prefix it keeps of its last request."""
        self._chat.client.reset()

    def reply(self, text: str) -> str:
        """Answer a user's message."""
        return str(self._chat.invoke(text).content)

    def close(self) -> None:
        """Free it."""
        self._chat.client.close()


def repeng_decode(model: Model, n: int) -> Callable[[], float] | None:
    """Return what decodes n tokens with repeng's vector at every block, or None without repeng.

    repeng 0.4 cannot be imported beside NumPy 2, which counts as not being there.
    """
    try:
        import torch
        from repeng import ControlModel
        from transformers import AutoModelForCausalLM

        from steerplug.fit.distill.weights import device_here, fastest_type

        device = device_here()
        weights = AutoModelForCausalLM.from_pretrained(
            model.path.parent, gguf_file=model.path.name, dtype=fastest_type(device)
        ).to(device)
    except (ImportError, AttributeError, ValueError):
        return None
    vector, blocks = 1e-3 * torch.ones(model.n_embd, dtype=weights.dtype), range(model.n_layer)
    steered = ControlModel(weights, blocks)
    steered.set_raw_control(dict.fromkeys(blocks, vector.to(device)))

    def decode() -> float:
        with torch.inference_mode():
            output = steered(torch.arange(100, 132, device=device)[None], use_cache=True)
            start = time.perf_counter()
            for _ in range(n):
                token = output.logits[:, -1:].argmax(-1)
                output = steered(token, past_key_values=output.past_key_values, use_cache=True)
            return (time.perf_counter() - start) / n

    return decode
