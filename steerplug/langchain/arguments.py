"""What a caller may say, when making a chat model and again for each call.

Both are checked here, by the same rules and in the same sentences. How tokens are drawn is said as
in `SamplingFields`. What only a call of a chat model may say, tools and the format of the reply, is
in `call`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from steerplug.engine.sampling import SETTINGS
from steerplug.errors import RequestError, nearest
from steerplug.langchain.aliases import renamed
from steerplug.library.recipe import Recipe
from steerplug.preset.carrier import Carrier
from steerplug.preset.mix import parse_mix
from steerplug.session.sampling_fields import SamplingFields

if TYPE_CHECKING:
    from steerplug.session import Settings

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Integer = Annotated[int, Field(strict=True)]
_PASSED_ON_BY_CORE = ("stream", "ls_structured_output_format")


class Arguments(SamplingFields):
    """The arguments of a reply; None leaves the choice to steerplug."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    model: str = Field("smollm2", alias="model_name", min_length=1)
    """A path, `hf:org/repo/file.gguf`, or an alias such as `smollm2`."""

    steering: str | None = None
    """A mix in words, such as `0.8*weddings + love-hate`; `none` for no steering."""

    carrier: Carrier | None = None
    """What brings presets into the reply: "steering", "prompt" or "both"; None or "auto": steering
    where a preset is compiled for the model, and its prompt elsewhere."""

    logit_bias: dict[int, Annotated[_Number, Field(ge=-100, le=100)]] | None = None
    """What is added to the logits of single tokens."""

    max_tokens: _Integer | None = None
    """Most tokens of a reply; None or -1: as many as the context holds."""

    stop: list[str] | str | None = None
    """Strings that end a reply; they are not part of it. An empty one ends nothing."""

    timeout: Annotated[_Number, Field(gt=0)] | None = None
    """Give a reply up after this many seconds."""

    logprobs: StrictBool | None = None
    """Whether to tell the log-probability of each token, in `response_metadata["logprobs"]`."""

    top_logprobs: Annotated[_Integer, Field(ge=0, le=100)] | None = None
    """How many of the likeliest tokens to tell with it."""

    unsteered: list[Literal["thinking", "constrained"]] | None = None
    """Phases of a reply that steering leaves out, besides thinking and those that the presets leave
    out."""

    steered: list[Literal["thinking"]] | None = None
    """Phases that steering does not leave out, though it would."""

    @field_validator("steering", mode="wrap")
    @classmethod
    def _is_a_mix(cls, steering: object, check: ValidatorFunctionWrapHandler) -> str | None:
        if isinstance(steering, Recipe):
            return steering
        text: str | None = check(steering)
        if text is not None:
            parse_mix(text)
        return text

    @field_validator(*SETTINGS, mode="before")
    @classmethod
    def _is_a_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what pydantic would turn into a number."""
        whole = SETTINGS[str(info.field_name)].whole
        kind = int if whole else (int, float)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            name = "integer" if whole else "number"
            raise PydanticCustomError("number", f"Input should be a valid {name}")
        return value

    @field_validator("max_tokens")
    @classmethod
    def _leaves_room(cls, max_tokens: int | None) -> int | None:
        if max_tokens is not None and max_tokens < 1 and max_tokens != -1:
            raise RequestError(f"max_tokens is {max_tokens}; give at least 1, or -1 for no limit.")
        return None if max_tokens == -1 else max_tokens

    @model_validator(mode="after")
    def _tells_no_likeliest_tokens_without_probabilities(self) -> Self:
        if self.logprobs is False and self.top_logprobs:
            raise RequestError(
                f"top_logprobs is {self.top_logprobs}, but logprobs is False; leave one of them "
                "out."
            )
        return self

    def settings(self) -> "Settings":
        """Return them, besides model and steering, as a session reads them."""
        from steerplug.session import Settings

        return Settings(
            self.sampling(logit_bias=self.logit_bias),
            (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            self.max_tokens,
            unsteered=frozenset(self.unsteered or ()),
            steered=frozenset(self.steered or ()),
            logprobs=(self.top_logprobs or 0) if self._tells_logprobs else None,
            timeout=self.timeout,
            carrier=self.carrier or "auto",
        )

    @property
    def _tells_logprobs(self) -> bool:
        return bool(self.logprobs or self.top_logprobs)

    @classmethod
    def of(cls, model: "Arguments", arguments: Mapping[str, Any]) -> Self:
        """Return a model's arguments with what a call says instead; None says nothing.

        Raises:
            RequestError: an argument is unknown, or its value makes no sense.
            PresetError: the steering is no mix.
        """
        known = type(model).model_fields
        own = {name: getattr(model, name) for name in cls.model_fields if name in known}
        new = {
            name: value for name, value in arguments.items()
            if value is not None and name not in _PASSED_ON_BY_CORE
        }
        with one_sentence(cls):
            return cls.model_validate(own | renamed(new))


@contextmanager
def one_sentence(known: type[BaseModel]) -> Iterator[None]:
    """Turn what pydantic says of the first wrong value into a `RequestError`."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "the model"
        if first["type"] == "extra_forbidden" and name in known.model_fields:
            raise RequestError(f"`{name}` is given twice, under two names; keep one.") from None
        if first["type"] == "extra_forbidden":
            hint = nearest(name, known.model_fields) or "; leave it out."
            raise RequestError(f"there is no argument `{name}`{hint}") from None
        problem = first["msg"][:1].lower() + first["msg"][1:]
        raise RequestError(f"{name} is {first['input']!r}; {problem}.") from None
