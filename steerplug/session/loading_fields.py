"""The settings of `Loading` as fields of a pydantic model, for the doors that are such models.

Defaults and meanings are those of the table, and what is said is read as it reads it.
"""

from typing import Any, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from steerplug.engine.loading import SETTINGS, Loading
from steerplug.engine.unknown_settings import sentence
from steerplug.errors import ModelError


def _of(name: str) -> Any:
    setting = SETTINGS[name]
    return Field(setting.default, description=setting.meaning)


class LoadingFields(BaseModel):
    """How a model is loaded, by llama.cpp's names; see `engine.loading.SETTINGS`."""

    n_ctx: int = _of("n_ctx")
    n_batch: int = _of("n_batch")
    n_threads: int | None = _of("n_threads")
    n_threads_batch: int | None = _of("n_threads_batch")
    rope_scaling_type: str | None = _of("rope_scaling_type")
    rope_freq_base: float = _of("rope_freq_base")
    rope_freq_scale: float = _of("rope_freq_scale")
    yarn_ext_factor: float = _of("yarn_ext_factor")
    yarn_attn_factor: float = _of("yarn_attn_factor")
    yarn_beta_fast: float = _of("yarn_beta_fast")
    yarn_beta_slow: float = _of("yarn_beta_slow")
    yarn_orig_ctx: int = _of("yarn_orig_ctx")
    n_gpu_layers: int = _of("n_gpu_layers")
    split_mode: str = _of("split_mode")
    main_gpu: int = _of("main_gpu")
    tensor_split: tuple[float, ...] = _of("tensor_split")
    override_tensor: tuple[str, ...] = _of("override_tensor")
    devices: tuple[str, ...] = _of("devices")
    type_k: str = _of("type_k")
    type_v: str = _of("type_v")
    flash_attn: str = _of("flash_attn")
    swa_full: bool = _of("swa_full")
    offload_kqv: bool = _of("offload_kqv")
    op_offload: bool = _of("op_offload")
    use_mmap: bool = _of("use_mmap")
    use_mlock: bool = _of("use_mlock")
    numa: str | None = _of("numa")
    use_extra_bufts: bool = _of("use_extra_bufts")
    lora: tuple[tuple[str, float], ...] = _of("lora")
    chat_template: str | None = _of("chat_template")
    override_kv: tuple[str, ...] = _of("override_kv")
    check_tensors: bool = _of("check_tensors")

    @model_validator(mode="before")
    @classmethod
    def _is_no_setting_elsewhere(cls, words: Any) -> Any:
        """Say of a name that llama.cpp's users know what to do instead."""
        known = {*cls.model_fields, *(entry.alias for entry in cls.model_fields.values())}
        for name in words if isinstance(words, dict) else ():
            if name not in known and (hint := sentence(str(name))):
                raise ModelError(hint)
        return words

    @field_validator(*SETTINGS, mode="before")
    @classmethod
    def _read_setting(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        return SETTINGS[name].read(name, value)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        self.loading()
        return self

    def loading(self) -> Loading:
        """Return how the model is loaded.

        Raises:
            ModelError: two settings contradict each other.
        """
        return Loading(**{name: getattr(self, name) for name in SETTINGS})
