"""The settings of `Loading` as fields of a pydantic model, for the doors that are such models."""

from typing import TYPE_CHECKING, Any

from pydantic import (
    BaseModel,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from steerplug.engine.elsewhere import sentence
from steerplug.engine.loading import SETTINGS, Loading
from steerplug.errors import ModelError


class _Loaded(BaseModel):
    """What reads the fields, once the table has made them."""

    @model_validator(mode="before")
    @classmethod
    def _is_no_setting_elsewhere(cls, words: Any) -> Any:
        """Say of a name that llama.cpp's users know what to do instead."""
        for name in words if isinstance(words, dict) else ():
            is_field = name in cls.model_fields or name in _aliases(cls)
            if not is_field and (elsewhere := sentence(str(name))):
                raise ModelError(elsewhere)
        return words

    @field_validator(*SETTINGS, mode="before", check_fields=False)
    @classmethod
    def _read_setting(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        return SETTINGS[name].read(name, value)

    @model_validator(mode="after")
    def _goes_together(self) -> Any:
        self.loading()
        return self

    def loading(self) -> Loading:
        """Return how the model is loaded.

        Raises:
            ModelError: two settings contradict each other.
        """
        return Loading(**{name: getattr(self, name) for name in SETTINGS})


def _aliases(model: type[BaseModel]) -> set[str | None]:
    return {entry.alias for entry in model.model_fields.values()}


if TYPE_CHECKING:

    class LoadingFields(_Loaded):
        """How a model is loaded, by llama.cpp's names; see `engine.loading.SETTINGS`."""

        n_ctx: int
else:
    LoadingFields = create_model(
        "LoadingFields",
        __base__=_Loaded,
        __doc__="How a model is loaded, by llama.cpp's names; see `engine.loading.SETTINGS`.",
        **{
            name: (Any, Field(known.default, description=known.meaning))
            for name, known in SETTINGS.items()
        },
    )
