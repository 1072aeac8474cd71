"""Replies that follow a grammar by construction: tokens no valid reply goes on with are not drawn.

llguidance computes, per token, which ones may follow; theirs are the only logits left standing.
That needs no logits, and is done beside the decode, in a thread of its own. A grammar is data: what
it cannot express is an error sentence, never a crash; of a JSON Schema, `loosen` leaves it out.
"""

import json
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import llguidance
import numpy as np
from llguidance.llamacpp import lltokenizer_from_vocab
from numpy.typing import NDArray

from steerplug.engine import fork
from steerplug.engine.deep_stack import on_deep_stack
from steerplug.engine.loosen import loosened
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


_making = threading.Lock()
_beside = ThreadPoolExecutor(1, "steerplug masks")


def _begin_anew() -> None:
    global _beside, _making
    _beside, _making = ThreadPoolExecutor(1, "steerplug masks"), threading.Lock()


fork.in_child(_begin_anew)


@dataclass(frozen=True)
class Regex:
    """A reply that is wholly matched by a regular expression."""

    pattern: str


@dataclass(frozen=True)
class Choice:
    """A reply that is one of several texts."""

    options: tuple[str, ...]


@dataclass(frozen=True)
class Lark:
    """A reply that follows a context-free grammar in llguidance's dialect of Lark.

    Args:
        text: the grammar.
        closers: texts that bring a reply nearer to its end wherever they may follow outside of
            JSON's strings, the one to be tried first first.
    """

    text: str
    closers: tuple[str, ...] = ()


Grammar = Mapping[str, Any] | Regex | Choice | Lark
"""What a reply must follow; a mapping is a JSON Schema."""


class Constraint:
    """What one reply may still say.

    Args:
        vocab: the model's vocabulary.
        grammar: what the reply must follow.

    Raises:
        RequestError: the grammar is not one that can be followed.
    """

    def __init__(self, vocab: Vocab, grammar: Grammar) -> None:
        tokenizer = _tokenizer(vocab)
        try:
            self._matcher = _matcher(tokenizer, _compiled(grammar))
        except (TypeError, ValueError, RecursionError) as error:
            raise _refused(grammar, str(error)) from None
        if self._matcher.is_error():
            raise _refused(grammar, self._matcher.get_error())
        self.grammar = grammar
        self.is_json = isinstance(grammar, Mapping) or (
            isinstance(grammar, Lark) and ("%json" in grammar.text or grammar.closers != ())
        )
        self._bits = np.zeros(-(-vocab.n_tokens // 32), np.int32)
        self._n_vocab = vocab.n_tokens
        self._ahead: Future[NDArray[np.bool_]] | None = None

    def look_ahead(self) -> None:
        """Begin to compute `allowed`, which must be the next to be asked for."""
        self._ahead = _beside.submit(self._compute)

    def allowed(self) -> NDArray[np.bool_]:
        """Return which tokens can come next, (n_vocab,).

        Raises:
            RequestError: the grammar proved too costly to follow.
        """
        ahead, self._ahead = self._ahead, None
        return ahead.result() if ahead else self._compute()

    def _compute(self) -> NDArray[np.bool_]:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise RequestError(
                f"the grammar became too costly to follow ({_line(self._matcher.get_error())}); "
                "simplify it."
            )
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little", count=self._n_vocab)
        return bits.view(np.bool_)

    def restrict(self, logits: Array) -> None:
        """Set the logits of tokens that cannot come next to -inf, in place; logits: (n_vocab,)."""
        np.copyto(logits, -np.inf, where=~self.allowed())

    def accept(self, token: int) -> None:
        """Go on past a token that was drawn."""
        self._matcher.consume_token(token)

    def take_back(self) -> None:
        """Undo the last `accept`."""
        self._matcher.rollback(1)

    def replay(self, tokens: Sequence[int]) -> bool:
        """Go on past these tokens; return False where the grammar does not allow them."""
        self._matcher.consume_tokens(list(tokens))
        return not self._matcher.is_error()

    def copy(self) -> "Constraint":
        """Return one that stands at the same place and goes its own way."""
        other = copy(self)
        other._matcher, other._bits = self._matcher.deep_copy(), self._bits.copy()
        return other

    def admits(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens can come next, in this order."""
        return self._matcher.validate_tokens(list(tokens)) == len(tokens)

    def forced(self) -> list[int]:
        """Return the tokens that must come next, if there is only one way to go on."""
        return self._matcher.compute_ff_tokens()

    def forced_text(self) -> str:
        """Return the text that must come next, whatever its tokens."""
        return self._matcher.compute_ff_bytes().decode("utf-8", "ignore")

    @property
    def may_end(self) -> bool:
        """Whether what has been said is already all that the grammar asks for."""
        return self._matcher.is_accepting()

    @property
    def is_complete(self) -> bool:
        """Whether nothing more can be said."""
        return self._matcher.is_stopped() and not self._matcher.is_error()


def at_most(regex: Regex, n: int) -> Lark:
    """Return the grammar of what a regular expression matches with at most n characters."""
    pattern = regex.pattern.replace("/", r"\/")
    return Lark(f"start: REPLY\nREPLY: /(?:{pattern})/ & /(?s:.{{0,{n}}})/")


def lark_text(text: str, vocab: Vocab) -> str:
    """Return a fixed text in Lark; a text that is a token of its own is said as that token."""
    tokens = vocab.tokenize(text, special=True)
    if len(tokens) == 1 and _tokenizer(vocab).is_special_token(tokens[0]):
        return f"<[{tokens[0]}]>"
    return json.dumps(text, ensure_ascii=False)


def lark_regex(text: str) -> str:
    """Return the regular expression of a fixed text, as it stands in Lark."""
    return "".join(
        letter if letter.isalnum() or ord(letter) > 127 else f"\\x{ord(letter):02x}"
        for letter in text
    )


def lark_json(schema: Mapping[str, Any]) -> str:
    """Return JSON that follows a schema, in Lark.

    Raises:
        RequestError: the schema cannot be followed.
    """
    try:
        return "%json " + json.dumps({**loosened(schema).schema, "x-guidance": _STYLE})
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(schema, str(error)) from None


def _matcher(tokenizer: llguidance.LLTokenizer, grammar: str) -> llguidance.LLMatcher:
    make = partial(llguidance.LLMatcher, tokenizer, grammar, log_level=0)
    return on_deep_stack(make, grammar)


def _compiled(grammar: Grammar) -> str:
    matcher = llguidance.LLMatcher
    if isinstance(grammar, Regex):
        return matcher.grammar_from_regex(grammar.pattern)
    if isinstance(grammar, Choice):
        if not grammar.options or not all(grammar.options):
            raise ValueError("it needs at least one option, and none may be empty")
        quoted = " | ".join(json.dumps(option, ensure_ascii=False) for option in grammar.options)
        return matcher.grammar_from_lark(f"start: {quoted}")
    if isinstance(grammar, Lark):
        return matcher.grammar_from_lark(grammar.text)
    schema = json.dumps(dict(loosened(grammar).schema))
    return matcher.grammar_from_json_schema(schema, overrides=_STYLE)


def _tokenizer(vocab: Vocab) -> llguidance.LLTokenizer:
    handle = vocab.handle  # refuses that of a closed model
    with _making:
        if vocab in _tokenizers:
            return _tokenizers[vocab]
        with warnings.catch_warnings():
            # llguidance 1.9 calls a function that llama-cpp-python deprecates, once per token.
            warnings.simplefilter("ignore", DeprecationWarning)
            _tokenizers[vocab] = lltokenizer_from_vocab(handle)
        return _tokenizers[vocab]


def _refused(grammar: Grammar, reason: str) -> RequestError:
    name = "JSON schema" if isinstance(grammar, Mapping) else type(grammar).__name__.lower()
    return RequestError(f"the {name} cannot be followed ({_line(reason)}); simplify it.")


def _line(reason: str) -> str:
    return " ".join(reason.split())[:200]
