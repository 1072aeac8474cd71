"""How a model is loaded: llama.cpp's settings in one table, which every door reads.

Each setting stands here once, with its default, its range, its meaning and its flags. Names and
defaults are llama.cpp's, but where steering needs another: one decode is one batch, so `n_batch` is
llama.cpp's `n_ubatch` as well. Nothing here loads llama.cpp; `engine.params` hands it over, and
`engine.unknown_settings` has a sentence for names that are no settings here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from steerplug.engine.setting import Setting, choice, real, setting, switch, whole
from steerplug.engine.setting_values import (
    devices,
    layers,
    loras,
    overrides,
    placements,
    shares,
    template,
)
from steerplug.engine.sizes import N_BATCH, N_CTX
from steerplug.engine.unknown_settings import refuse
from steerplug.errors import ModelError

_MOST, _MOST_THREADS = 2**31 - 1, 4096

CACHE_TYPES = {
    "f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "iq4_nl": 20, "q5_0": 6,
    "q5_1": 7,
}  # fmt: skip
"""Types of the KV cache, by llama.cpp's number of each."""

FULL_TYPES = ("f32", "f16", "bf16")
"""Those of them that are no quantisation."""

SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}
ROPE_SCALINGS = {"none": 0, "linear": 1, "yarn": 2, "longrope": 3}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
NUMA = {"distribute": 1, "isolate": 2, "numactl": 3}

_OFFLOAD, _CONTEXT, _CACHE, _MEMORY, _MODEL = (
    "Offload to GPUs", "Context", "KV cache", "Memory", "What is loaded",
)  # fmt: skip


def _cache_type(flag: str, short: str, what: str) -> Any:
    return setting(
        "f16", f"Type of the cache of {what}: {', '.join(CACHE_TYPES)}.", flag, short,
        read=choice(CACHE_TYPES, {None: "f16"}), kind=str, metavar="TYPE", group=_CACHE,
        shapes_replies=True,
    )  # fmt: skip


def _rope(
    meaning: str, *flags: str, low: float = 0.0, high: float = 1e12, unset: float | None = None
) -> Any:
    return setting(
        0.0 if unset is None else unset, meaning, *flags, read=real(low, high, unset), kind=float,
        group=_CONTEXT, shapes_replies=True,
    )  # fmt: skip


def _switch(default: bool, meaning: str, *flags: str, group: str, **about: Any) -> Any:
    return setting(default, meaning, *flags, read=switch, kind=bool, group=group, **about)


@dataclass(frozen=True)
class Loading:
    """How a model is loaded; `SETTINGS` has what each field means.

    Whatever a door was given is read into one form, so that equal settings are equal values: texts
    of types are lower case, a template's file is its text, LoRAs are `(path, scale)`.

    Raises:
        ModelError: a value makes no sense, or two contradict each other.
    """

    n_ctx: int = setting(
        N_CTX, "Tokens of one conversation; 0: as many as the model was trained for.",
        "--ctx-size", "-c", read=whole(0, _MOST), kind=int, group=_CONTEXT, shapes_replies=True,
    )  # fmt: skip
    n_batch: int = setting(
        N_BATCH, "Most tokens of one decode, in one piece; at least one for each sequence.",
        "--batch-size", "-b", read=whole(1, 65_536), kind=int, group=_CONTEXT,
    )  # fmt: skip
    n_threads: int | None = setting(
        None, "Threads; by default as many as there are processors at hand.", "--threads", "-t",
        read=whole(1, _MOST_THREADS, unset=-1), kind=int, group=_CONTEXT,
    )  # fmt: skip
    n_threads_batch: int | None = setting(
        None, "Threads for more than one token at a time; by default as n_threads.",
        "--threads-batch", "-tb", read=whole(1, _MOST_THREADS, unset=-1), kind=int, group=_CONTEXT,
    )  # fmt: skip
    rope_scaling_type: str | None = setting(
        None, f"How positions are scaled: {', '.join(ROPE_SCALINGS)}; by default as trained.",
        "--rope-scaling", read=choice(ROPE_SCALINGS, {None: None, -1: None}), kind=str,
        metavar="TYPE", group=_CONTEXT, shapes_replies=True,
    )  # fmt: skip
    rope_freq_base: float = _rope("Base of the rotary frequencies; 0: the model's own.")
    rope_freq_scale: float = _rope("By what positions are multiplied; 0: the model's own.")
    yarn_ext_factor: float = _rope("YaRN: share of extrapolation; -1: the model's own.", unset=-1.0)
    yarn_attn_factor: float = _rope("YaRN: scale of attention; -1: the model's own.", unset=-1.0)
    yarn_beta_fast: float = _rope("YaRN: high correction; -1: the model's own.", unset=-1.0)
    yarn_beta_slow: float = _rope("YaRN: low correction; -1: the model's own.", unset=-1.0)
    yarn_orig_ctx: int = setting(
        0, "YaRN: tokens the model was first trained for; 0: the model's own.",
        read=whole(0, _MOST), kind=int, group=_CONTEXT, shapes_replies=True,
    )  # fmt: skip

    n_gpu_layers: int = setting(
        -1, "Blocks that GPUs compute; -1, all or auto: all, where there is a GPU.",
        "--gpu-layers", "-ngl", read=layers, kind=str, metavar="N", group=_OFFLOAD,
    )  # fmt: skip
    split_mode: str = setting(
        "layer", f"How several GPUs share the model: {', '.join(SPLIT_MODES)}.", "-sm",
        read=choice(SPLIT_MODES), kind=str, metavar="MODE", group=_OFFLOAD,
    )  # fmt: skip
    main_gpu: int = setting(
        0, "The GPU for all (split mode none) or for small tensors (row).", "-mg",
        read=whole(-1, 255), kind=int, group=_OFFLOAD,
    )  # fmt: skip
    tensor_split: tuple[float, ...] = setting(
        (), "Shares of the GPUs, such as 3,1; by default by their memory.", "-ts", read=shares,
        kind=str, metavar="N0,N1,...", group=_OFFLOAD,
    )  # fmt: skip
    override_tensor: tuple[str, ...] = setting(
        (), "Where tensors are kept whose names match: PATTERN=BUFFER.", "-ot", read=placements,
        kind=str, many=True, metavar="PATTERN=BUFFER", group=_OFFLOAD,
    )  # fmt: skip
    devices: tuple[str, ...] = setting(
        (), "GPUs to use, by llama.cpp's names; none: no GPU.", "--device", "-dev", read=devices,
        kind=str, metavar="NAME,...", group=_OFFLOAD,
    )  # fmt: skip

    type_k: str = _cache_type("--cache-type-k", "-ctk", "keys")
    type_v: str = _cache_type("--cache-type-v", "-ctv", "values")
    flash_attn: str = setting(
        "auto", "Flash attention: on, off or auto.", "-fa",
        read=choice(FLASH_ATTENTION, {True: "on", False: "off", None: "auto"}), kind=str,
        metavar="on|off|auto", group=_CACHE,
    )  # fmt: skip
    swa_full: bool = _switch(
        False, "Keep all cells of sliding-window layers.", "--swa-full/--no-swa-full", group=_CACHE,
    )  # fmt: skip
    offload_kqv: bool = _switch(
        True,
        "Keep the cache on the GPU.",
        "--kv-offload/--no-kv-offload",
        "-kvo/-nkvo",
        group=_CACHE,
    )
    op_offload: bool = _switch(
        True, "Let the GPU compute large batches of tensors that are not on it.",
        "--op-offload/--no-op-offload", group=_OFFLOAD,
    )  # fmt: skip

    use_mmap: bool = _switch(True, "Map the file into memory.", "--mmap/--no-mmap", group=_MEMORY)
    use_mlock: bool = _switch(
        False, "Lock the weights in memory.", "--mlock/--no-mlock", group=_MEMORY
    )
    numa: str | None = setting(
        None, f"Spread over the nodes of a NUMA machine: {', '.join(NUMA)}.",
        read=choice(NUMA, {None: None, False: None, "": None, True: "distribute"}),
        kind=str, metavar="TYPE", group=_MEMORY,
    )  # fmt: skip
    use_extra_bufts: bool = _switch(
        True, "Lay weights out anew for this processor.", "--repack/--no-repack", group=_MEMORY,
    )  # fmt: skip

    lora: tuple[tuple[str, float], ...] = setting(
        (), "A LoRA adapter in GGUF, with :SCALE if not 1; may be given several times.",
        "--lora-scaled", read=loras, kind=str, many=True, metavar="FILE[:SCALE]", group=_MODEL,
        shapes_replies=True,
    )  # fmt: skip
    chat_template: str | None = setting(
        None, "A chat template in Jinja, or its file, in place of the model's own.",
        "--chat-template-file", read=template, kind=str, metavar="TEXT|FILE", group=_MODEL,
        shapes_replies=True,
    )  # fmt: skip
    override_kv: tuple[str, ...] = setting(
        (), "Metadata in place of the file's: KEY=TYPE:VALUE, with int, float, bool or str.",
        read=overrides, kind=str, many=True, metavar="KEY=TYPE:VALUE", group=_MODEL,
        shapes_replies=True,
    )  # fmt: skip
    check_tensors: bool = _switch(
        False, "Look for numbers in the weights that are none.",
        "--check-tensors/--no-check-tensors", group=_MODEL,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, known in SETTINGS.items():
            object.__setattr__(self, name, known.read(name, getattr(self, name)))
        for holds, sentence in _contradictions(self):
            if holds:
                raise ModelError(sentence)

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> Self:
        """Return the settings that a caller names.

        Raises:
            ModelError: there is no such setting, or what `Loading` refuses.
        """
        refuse(words, SETTINGS)
        return cls(**words)

    @property
    def shaping(self) -> dict[str, Any]:
        """What replies depend on and was said: each such setting that is not the default."""
        return {
            name: getattr(self, name) for name, known in SETTINGS.items()
            if known.shapes_replies and getattr(self, name) != known.default
        }  # fmt: skip

    @property
    def stretches(self) -> bool:
        """Whether positions are scaled by hand, so that the trained length is no limit."""
        return bool(
            self.rope_freq_base
            or self.rope_freq_scale
            or self.yarn_orig_ctx
            or self.rope_scaling_type not in (None, "none")
        )


SETTINGS: Mapping[str, Setting] = {
    entry.name: entry.metadata["setting"] for entry in fields(Loading)
}
"""Every setting, by name."""


def _contradictions(asked: Loading) -> list[tuple[bool, str]]:
    """Return what does not go together: whether it is so, and a sentence that says it."""
    quantised_v = asked.type_v not in FULL_TYPES
    yarn = [name for name in SETTINGS if name.startswith("yarn_")]
    yarn = [name for name in yarn if getattr(asked, name) != SETTINGS[name].default]
    scaled = [*yarn, *(["rope_freq_scale"] if asked.rope_freq_scale not in (0, 1) else [])]
    is_none = asked.devices == ("none",)
    return [
        (
            quantised_v and asked.flash_attn == "off",
            f"type_v is {asked.type_v}, and a quantised cache of values needs flash attention, "
            "which flash_attn turns off; leave flash_attn out, or take type_v f16.",
        ),
        (
            asked.split_mode == "tensor" and asked.flash_attn == "off",
            "split_mode is tensor, which needs flash attention, and flash_attn turns it off; leave "
            "one of them out.",
        ),
        (
            is_none and asked.n_gpu_layers > 0,
            f"devices is none, so no GPU is used, and n_gpu_layers is {asked.n_gpu_layers}; leave "
            "one of them out.",
        ),
        (
            bool(asked.devices and asked.tensor_split)
            and (is_none or len(asked.devices) != len(asked.tensor_split)),
            f"tensor_split has {len(asked.tensor_split)} shares, and devices names "
            f"{', '.join(asked.devices)}; give as many shares as devices.",
        ),
        (
            asked.rope_scaling_type == "none" and bool(scaled),
            f"rope_scaling_type is none, so {(scaled or [''])[0]} would do nothing; leave one of "
            "them out.",
        ),
        (
            asked.rope_scaling_type == "linear" and bool(yarn),
            f"rope_scaling_type is linear, and {(yarn or [''])[0]} belongs to yarn; leave one of "
            "them out.",
        ),
    ]  # fmt: skip


DEFAULT = Loading()
"""How a model is loaded where nobody says anything."""
