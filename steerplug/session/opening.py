"""A model is opened: found, asked for what it can be, and loaded; all doors come through here."""

from typing import TYPE_CHECKING

from steerplug.engine.loading import DEFAULT, Loading
from steerplug.model_file import find_model

if TYPE_CHECKING:
    from steerplug.engine.model import Model


def open_model(reference: str, loading: Loading = DEFAULT) -> "Model":
    """Return a loaded model; what can be refused before its weights are read is.

    Args:
        reference: a path, `hf:org/repo/file.gguf`, or an alias such as `smollm2`.
        loading: how to load it.

    Raises:
        ModelNotFound: the model is not there.
        ModelError: it cannot be loaded, or not as it was asked for.
    """
    from steerplug.chat.renderer import check_template
    from steerplug.engine.model import Model

    path = find_model(reference)
    if loading.chat_template is not None:
        check_template(loading.chat_template)
    return Model(path, loading)
