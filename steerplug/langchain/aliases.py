"""Arguments by the names that ChatLlamaCpp and other chat models have for them.

    model_path, max_completion_tokens, last_n_tokens_size    model, max_tokens, repeat_last_n
    model_kwargs={...}                                       each as an argument of its own

What ChatLlamaCpp takes and nothing here does may say that it asks for nothing, as its default there
does; anything else is refused. FROM_CHATLLAMACPP.md has the table of all.
"""

from collections.abc import Mapping
from typing import Any

from steerplug.errors import RequestError

ALIASES = {
    "model_path": "model",
    "max_completion_tokens": "max_tokens",
    "last_n_tokens_size": "repeat_last_n",
}
_TEXTS = "a reply is what follows, and not the text around it; leave it out"
_FORMAT = "GBNF is not read; give a schema to with_structured_output, or as response_format"

WITHOUT_EFFECT: Mapping[str, tuple[Any, str]] = {
    "client": (None, "the model is loaded here, and shared; give its path as model"),
    "echo": (False, _TEXTS),
    "f16_kv": (True, "write type_k and type_v, such as q8_0"),
    "grammar": (None, _FORMAT),
    "grammar_path": (None, _FORMAT),
    "logits_all": (False, "logits are kept where they are needed; ask for logprobs"),
    "lora_base": (None, "adapters go with any quantisation; leave it out"),
    "lora_path": (None, "write lora"),
    "n_parts": (-1, "a model in several files is found by its first one; leave it out"),
    "suffix": (None, _TEXTS),
    "vocab_only": (False, "replies need the weights as well"),
}
"""Arguments of ChatLlamaCpp: the value that asks for nothing, and what to do instead of others."""


def renamed(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments by the names that they have here.

    Raises:
        RequestError: one is given twice, or asks for what nothing here does.
    """
    arguments: dict[str, Any] = {}
    for given, value in _unfolded(said):
        if given in WITHOUT_EFFECT:
            nothing, instead = WITHOUT_EFFECT[given]
            if value is None or (value == nothing and isinstance(value, type(nothing))):
                continue
            raise RequestError(f"{given} is {value!r:.60}, which is not served: {instead}.")
        name = ALIASES.get(given, given)
        if name in arguments or (given != name and said.get(name) is not None):
            raise RequestError(f"`{name}` is given twice, under two names; keep one.")
        if given == name or value is not None:
            arguments[name] = value
    return arguments


def _unfolded(said: Mapping[str, Any]) -> list[tuple[str, Any]]:
    more = said.get("model_kwargs")
    if more is not None and not isinstance(more, Mapping):
        raise RequestError(f"model_kwargs is {more!r:.60}; give a dict of arguments.")
    own = [(name, value) for name, value in said.items() if name != "model_kwargs"]
    return [*own, *(more or {}).items()]
