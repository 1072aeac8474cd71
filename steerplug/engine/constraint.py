"""Replies that are JSON by construction: tokens no valid reply could go on with are never drawn.

llguidance computes, per token, which ones may follow; theirs are the only logits left standing. A
schema is data: what it cannot express is an error sentence, never a crash.
"""

import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import llguidance
import numpy as np
from llguidance.llamacpp import lltokenizer_from_vocab

from steerplug.engine.vocab import Vocab
from steerplug.errors import RequestError
from steerplug.steering.value import Array

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

ANY_JSON: Mapping[str, Any] = {"type": "object"}
"""The schema of a reply that only has to be a JSON object."""

_STYLE: "JsonCompileOptions" = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "
}
_tokenizers: "WeakKeyDictionary[Vocab, llguidance.LLTokenizer]" = WeakKeyDictionary()


class Constraint:
    """What one reply may still say.

    Args:
        vocab: the model's vocabulary.
        schema: a JSON Schema.

    Raises:
        RequestError: the schema is not one that can be followed.
    """

    def __init__(self, vocab: Vocab, schema: Mapping[str, Any]) -> None:
        tokenizer = _tokenizer(vocab)
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                json.dumps(dict(schema)), overrides=_STYLE
            )
            self._matcher = llguidance.LLMatcher(tokenizer, grammar)
        except (TypeError, ValueError, RecursionError) as error:
            raise _refused(str(error)) from None
        if self._matcher.is_error():
            raise _refused(self._matcher.get_error())
        self._bits = np.zeros(-(-vocab.n_tokens // 32), np.int32)

    def restrict(self, logits: Array) -> None:
        """Set the logits of tokens that cannot come next to -inf, in place; logits: (n_vocab,)."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little", count=len(logits))
        logits[allowed == 0] = -np.inf

    def accept(self, token: int) -> None:
        """Go on past a token that was drawn."""
        self._matcher.consume_token(token)


def _tokenizer(vocab: Vocab) -> llguidance.LLTokenizer:
    handle = vocab.handle  # refuses that of a closed model
    if vocab not in _tokenizers:
        with warnings.catch_warnings():
            # llguidance 1.9 calls a function that llama-cpp-python deprecates, once per token.
            warnings.simplefilter("ignore", DeprecationWarning)
            _tokenizers[vocab] = lltokenizer_from_vocab(handle)
    return _tokenizers[vocab]


def _refused(reason: str) -> RequestError:
    line = " ".join(reason.split())[:200]
    return RequestError(f"the JSON schema cannot be followed ({line}); simplify it.")
