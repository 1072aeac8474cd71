"""What replies look like to OpenAI's clients: the parts that chats and completions share."""

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from steerplug.chat.tool import CallPiece, ToolCall
from steerplug.engine.engine import Logprobs, Piece
from steerplug.engine.vocab import Vocab
from steerplug.session.receipt import Reply

_LEAST = -9999.0


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """Return what all parts of one answer begin with."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()),
        "model": model,
    }  # fmt: skip


def usage(replies: Iterable[Reply], n_prompts: int = 1) -> dict[str, Any]:
    """Return the tokens of an answer; a prompt with several replies counts once.

    Args:
        replies: prompt by prompt, as many to each.
        n_prompts: how many prompts there were.
    """
    replies = list(replies)
    first = replies[:: max(len(replies) // n_prompts, 1)]
    n_prompt = sum(reply.usage.prompt_tokens for reply in first)
    n_reply = sum(reply.usage.completion_tokens for reply in replies)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_reply,
        "total_tokens": n_prompt + n_reply,
        "prompt_tokens_details": {
            "cached_tokens": sum(reply.usage.cached_tokens for reply in first)
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(reply.usage.reasoning_tokens for reply in replies)
        },
    }


def receipt(mix: str, reply: Reply) -> dict[str, Any]:
    """Return what was applied to a reply."""
    rest = asdict(reply.receipt)
    return {"mix": mix, "digest": rest.pop("digest"), "presets": rest.pop("steering"), **rest}


def call(call: ToolCall) -> dict[str, Any]:
    """Return a tool call of a finished reply."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def call_delta(piece: CallPiece) -> dict[str, Any]:
    """Return what a part of a tool call adds to a stream."""
    if piece.id is None:
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def chat_logprobs(pieces: Sequence[Piece], vocab: Vocab) -> dict[str, Any]:
    """Return how likely tokens were, in the form of chats: those of the answer."""
    content = []
    for piece in pieces:
        if piece.logprobs is not None and piece.token is not None and not piece.in_thought:
            top = [_token(vocab, token, x) for token, x in piece.logprobs.top]
            own = _token(vocab, piece.token, piece.logprobs.logprob)
            content.append({**own, "top_logprobs": top})
    return {"content": content, "refusal": None}


def completion_logprobs(pieces: Sequence[Piece], vocab: Vocab, begin: int = 0) -> dict[str, Any]:
    """Return how likely tokens were, in the form of completions; `begin`: characters before.

    The first token of a text that is repeated has neither figure.
    """
    lists: dict[str, Any] = {
        "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []
    }  # fmt: skip
    for piece in pieces:
        if piece.token is not None:
            word, logprobs = _word(vocab, piece.token), piece.logprobs
            lists["tokens"].append(word)
            lists["token_logprobs"].append(logprobs and _finite(logprobs.logprob))
            lists["top_logprobs"].append(logprobs and _likeliest(word, logprobs, vocab))
            lists["text_offset"].append(begin)
        begin += len(piece.text)
    return lists


def _likeliest(word: str, logprobs: Logprobs, vocab: Vocab) -> dict[str, float]:
    """Return the likeliest tokens and the token itself; of those alike, the likeliest stays."""
    likeliest = {_word(vocab, t): _finite(x) for t, x in reversed(logprobs.top)}
    likeliest.setdefault(word, _finite(logprobs.logprob))
    return likeliest


def _token(vocab: Vocab, token: int, logprob: float) -> dict[str, Any]:
    data = vocab.piece(token, True)
    return {
        "token": data.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(data)
    }  # fmt: skip


def _word(vocab: Vocab, token: int) -> str:
    return vocab.piece(token, True).decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
