"""What the chat model and the completion model have in common: one local model, steered per call.

    call argument  >  config["configurable"]  >  field

The first of these that says something chooses the steering; `"none"` says: none. What a model and
a call may say is in `arguments`, how a config reaches it in `configured`.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import ConfigDict, ModelWrapValidatorHandler, model_validator

from steerplug.errors import SteerplugError
from steerplug.langchain.aliases import renamed
from steerplug.langchain.arguments import Arguments, one_sentence
from steerplug.langchain.configured import Configured
from steerplug.langchain.errors import langchain_errors
from steerplug.langchain.fingerprint import fingerprint_model, fingerprint_steering
from steerplug.library.recipe import Recipe
from steerplug.session.loading_fields import LoadingFields
from steerplug.session.shared import session_for
from steerplug.version import __version__

if TYPE_CHECKING:
    from langchain_core.language_models import BaseLanguageModel

    from steerplug.session import Session

    _Model = BaseLanguageModel[Any]
else:
    _Model = object  # the model's own base comes after this one


CONFIG = ConfigDict(extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)
"""What pydantic is told in each model class: LangChain's own bases, which come last, say less."""


class LocalModel(Configured, Arguments, LoadingFields, _Model):
    """A local GGUF model. Its fields are those of `Arguments` and of `LoadingFields`."""

    compile: Literal["background"] | None = None
    """"background": presets that a call names and that are not compiled are, in idle time, after
    which they cost no tokens; None: only `steerplug build` compiles."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_one_sentence(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        with langchain_errors(), one_sentence(cls):
            return handler(renamed(data) if isinstance(data, Mapping) else data)

    @model_validator(mode="after")
    def _set_steerplug_version(self) -> Self:
        self._add_version("steerplug", __version__)
        return self

    @property
    def model_name(self) -> str:
        """What the model is called."""
        return self.model

    def with_steering(self, steering: str | None) -> Self:
        """Return a copy with another steering; both use the same weights.

        Raises:
            PresetError: `steering` is no mix.
        """
        with langchain_errors():
            Arguments.of(self, {"steering": steering})
        return self._with({"steering": steering})

    def get_token_ids(self, text: str) -> list[int]:
        """Return the tokens of `text` in the model's own vocabulary."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        with langchain_errors():
            return self._session(self).model.vocab.tokenize(text)

    def _with(self, fields: Mapping[str, Any]) -> Self:
        copy = self.model_copy(update=fields)
        copy.__dict__.pop("_serialized", None)  # cached by LangChain for its traces
        return copy

    def _session(self, call: Arguments) -> "Session":
        session = session_for(call.model, self.loading())
        if self.compile and call.steering:
            session.compile(call.steering)
        return session

    @property
    def _identifying_params(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in Arguments.model_fields}
        if isinstance(self.steering, Recipe):
            fields["steering"] = str(self.steering)
        return {
            **fields, "model_name": self.model, "n_ctx": self.n_ctx, **self.loading().shaping,
            **self._fingerprints({}),
        }  # fmt: skip

    def _fingerprints(self, arguments: Mapping[str, Any]) -> dict[str, str]:
        """Return fingerprints of model and steering; none if the call will be refused."""
        with suppress(SteerplugError):
            call = Arguments.of(
                self, {name: arguments.get(name) for name in ("model", "steering")}
            )
            return {
                "model_fingerprint": fingerprint_model(call.model, self.loading()),
                "steering_fingerprint": fingerprint_steering(call.steering),
            }
        return {}

    def _chosen(self, arguments: Mapping[str, Any]) -> Any:
        """Return the steering that a call says, or else the field."""
        steering = arguments.get("steering")
        return self.steering if steering is None else steering

    def _read(self, arguments: dict[str, Any]) -> dict[str, Any]:
        steering = self._chosen(arguments)
        if isinstance(steering, str):
            with suppress(SteerplugError):  # the call will be refused
                return {**arguments, "steering": Recipe.read(steering)}
        return arguments

    def _prepare(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Find the model's file and read it once as well, which a hub may make slow."""
        arguments = self._read(arguments)
        self._fingerprints(arguments)
        return arguments
