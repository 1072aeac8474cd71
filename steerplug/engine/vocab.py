"""Text to tokens and back, with the model's own vocabulary."""

import ctypes
from dataclasses import dataclass
from functools import cache, cached_property

from llama_cpp import llama_cpp as llama

from steerplug.errors import ModelError, RequestError

MAX_TEXT = 8 * 1024 * 1024


@dataclass(frozen=True)
class Control:
    """A token that text stands for only where special tokens are read.

    Args:
        strips_before, strips_after: whether it takes the white space beside it.
    """

    strips_before: bool = False
    strips_after: bool = False


class Vocab:
    """The vocabulary of a loaded model.

    BOS has two rules. `adds_bos` is what the model asks for: chats and completions obey it.
    `start` is what a fit puts before the texts that it reads: BOS wherever there is one, because
    the activations of a first token are unlike all others', whichever token it is.
    """

    def __init__(self, model: ctypes.c_void_p) -> None:
        self._vocab: ctypes.c_void_p | None = llama.llama_model_get_vocab(model)
        self.n_tokens = int(llama.llama_vocab_n_tokens(self._vocab))
        self.bos = int(llama.llama_vocab_bos(self._vocab))
        self.eos = int(llama.llama_vocab_eos(self._vocab))
        self.adds_bos = bool(llama.llama_vocab_get_add_bos(self._vocab))
        self.piece = cache(self._piece)
        self.ends_generation = cache(self._ends_generation)

    @property
    def start(self) -> tuple[int, ...]:
        """BOS, or nothing where the model has none."""
        return (self.bos,) if self.bos >= 0 else ()

    @property
    def handle(self) -> ctypes.c_void_p:
        """The `llama_vocab` pointer."""
        if self._vocab is None:
            raise ModelError("the model of this vocabulary is closed; load the model again.")
        return self._vocab

    def close(self) -> None:
        """Forget the pointer: the model is about to be freed."""
        self._vocab = None

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of `text`; no BOS is added.

        Args:
            text: what to tokenise.
            special: read `<|im_end|>` and the like as control tokens instead of plain text.

        Raises:
            RequestError: the text is longer than 8 MB.
            ModelError: the model has no tokeniser.
        """
        if self._has_no_texts():
            raise ModelError(
                "this model has no tokeniser, so it cannot read text; choose a GGUF that has one."
            )
        data = text.encode("utf-8", "replace")
        if len(data) > MAX_TEXT:
            raise RequestError(
                f"the text has {len(data)} bytes; the limit is {MAX_TEXT}, send a shorter one."
            )
        buffer = (ctypes.c_int32 * (len(data) + 8))()
        n = llama.llama_tokenize(
            self.handle, data, len(data), buffer, len(buffer), False, special
        )
        if n < 0:
            raise RequestError("the text could not be tokenised by this model; send a shorter one.")
        return buffer[:n]

    def _has_no_texts(self) -> bool:
        """Whether the model has no tokeniser; asked for one, llama.cpp would end the process."""
        return bool(llama.llama_vocab_type(self.handle) == llama.LLAMA_VOCAB_TYPE_NONE)

    def _piece(self, token: int, special: bool = False) -> bytes:
        if self._has_no_texts():
            return b""
        for size in (64, 4096):
            buffer = ctypes.create_string_buffer(size)
            n = llama.llama_token_to_piece(self.handle, token, buffer, size, 0, special)
            if n >= 0:
                break
        return buffer.raw[: max(n, 0)]

    def text(self, tokens: list[int], *, special: bool = False) -> str:
        """Return the text of `tokens`, control tokens only if `special`."""
        return b"".join(self.piece(t, special) for t in tokens).decode("utf-8", "replace")

    def _ends_generation(self, token: int) -> bool:
        """Whether `token` ends a reply (EOS, end of turn, ...)."""
        return bool(llama.llama_vocab_is_eog(self.handle, token))

    @cached_property
    def controls(self) -> dict[str, Control]:
        """The texts that `tokenize` reads as control tokens if `special`, and as text if not."""
        if self._has_no_texts():
            return {}
        attributes, text = llama.llama_vocab_get_attr, llama.llama_vocab_get_text
        unread = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        return {
            text(self.handle, token).decode("utf-8", "replace"): Control(
                bool(attributes(self.handle, token) & llama.LLAMA_TOKEN_ATTR_LSTRIP),
                bool(attributes(self.handle, token) & llama.LLAMA_TOKEN_ATTR_RSTRIP),
            )
            for token in range(self.n_tokens) if attributes(self.handle, token) & unread
        }

    @cached_property
    def space(self) -> int:
        """The token of a single space, with which activation addition pads."""
        return self.tokenize(" ")[0]
