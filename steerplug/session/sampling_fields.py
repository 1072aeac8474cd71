"""The settings of `Sampling` as fields of a pydantic model, for the doors that are such models.

Ranges and meanings are those of the table. None leaves the choice to steerplug, and -1 says what it
says in llama.cpp.
"""

import json
from typing import Any

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from steerplug.engine.sampling import MAX_BREAKERS, SETTINGS, Sampling, canonical


def _ranged(name: str) -> Any:
    setting = SETTINGS[name]
    return Field(None, ge=setting.low, le=setting.high, description=setting.meaning)


class SamplingFields(BaseModel):
    """How tokens are drawn, as far as somebody says it."""

    temperature: float | None = _ranged("temperature")
    top_k: int | None = _ranged("top_k")
    top_p: float | None = _ranged("top_p")
    min_p: float | None = _ranged("min_p")
    repeat_penalty: float | None = _ranged("repeat_penalty")
    seed: int | None = _ranged("seed")
    frequency_penalty: float | None = _ranged("frequency_penalty")
    presence_penalty: float | None = _ranged("presence_penalty")
    repeat_last_n: int | None = _ranged("repeat_last_n")
    typical_p: float | None = _ranged("typical_p")
    top_n_sigma: float | None = _ranged("top_n_sigma")
    xtc_probability: float | None = _ranged("xtc_probability")
    xtc_threshold: float | None = _ranged("xtc_threshold")
    dry_multiplier: float | None = _ranged("dry_multiplier")
    dry_base: float | None = _ranged("dry_base")
    dry_allowed_length: int | None = _ranged("dry_allowed_length")
    dry_penalty_last_n: int | None = _ranged("dry_penalty_last_n")
    dry_sequence_breakers: list[str] | None = Field(
        None, max_length=MAX_BREAKERS, description="Texts that end what DRY takes for a repetition."
    )
    mirostat: int | None = _ranged("mirostat")
    mirostat_tau: float | None = _ranged("mirostat_tau")
    mirostat_eta: float | None = _ranged("mirostat_eta")
    dynatemp_range: float | None = _ranged("dynatemp_range")
    dynatemp_exponent: float | None = _ranged("dynatemp_exponent")

    @field_validator("top_k", "seed", mode="before")
    @classmethod
    def _read_minus_one(cls, value: object, info: ValidationInfo) -> object:
        return canonical(str(info.field_name), -1 if value == "-1" else value)

    @field_validator("dry_sequence_breakers", mode="before")
    @classmethod
    def _read_list(cls, value: object) -> object:
        """Return the list that a text spells in JSON, with or without its brackets."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value if value.lstrip().startswith("[") else f"[{value}]")
        except (ValueError, RecursionError):
            return value

    def sampling(self, **more: Any) -> Sampling:
        """Return them as an engine reads them.

        Args:
            more: what else is said, in place of a field or beside it.

        Raises:
            RequestError: a value makes no sense.
        """
        fields = {name: getattr(self, name) for name in SamplingFields.model_fields}
        return Sampling(
            **{name: value for name, value in {**fields, **more}.items() if value is not None}
        )
