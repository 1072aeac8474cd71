"""`/tokenize`, `/detokenize`, `/props`: what else clients of llama.cpp's server ask for.

Where there are several models, a request names one: in the body, or as in `/props?model=qwen3`.
"""

import asyncio
from dataclasses import fields as settings
from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import Field, StrictInt

from steerplug.engine.sampling import Sampling
from steerplug.engine.vocab import Vocab
from steerplug.server import fields
from steerplug.server.requests import ModelName, Open
from steerplug.server.state import ServerState
from steerplug.server.translate import check_length, check_tokens
from steerplug.version import __version__

_MAX_TOKENS = 1_000_000


class TokenizeBody(Open):
    """A text to be split; `add_special` puts BOS before it where the model has it so."""

    model: ModelName | None = None
    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(Open):
    """Tokens to be joined."""

    model: ModelName | None = None
    tokens: Annotated[list[StrictInt], Field(max_length=_MAX_TOKENS)]


def add_to(app: FastAPI, serving: ServerState) -> None:
    """Add the endpoints."""

    def vocab_of(model: str | None) -> Vocab:
        return serving.models.said(model).session.model.vocab

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        """Split a text into tokens."""
        fields.check(body)
        vocab = vocab_of(body.model)
        check_length(len(body.content), serving.config.limits)
        tokens = await asyncio.to_thread(vocab.tokenize, body.content, special=body.parse_special)
        if body.add_special and vocab.adds_bos:
            tokens = [vocab.bos, *tokens]
        if not body.with_pieces:
            return {"tokens": tokens}
        return {"tokens": [{"id": token, "piece": _spelt(token, vocab)} for token in tokens]}

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> dict[str, Any]:
        """Join tokens into a text."""
        fields.check(body)
        vocab = vocab_of(body.model)
        check_tokens(body.tokens, vocab.n_tokens, "the list", "tokens")
        return {"content": vocab.text(body.tokens, special=True)}

    @app.get("/props")
    async def props(model: ModelName | None = None) -> dict[str, Any]:
        """Describe a model, and what replies are made with if nobody says."""
        served, sampling = serving.models.said(model), Sampling()
        session = served.session
        vocab = session.model.vocab
        return {
            "default_generation_settings": {
                "n_ctx": session.engine.n_ctx,
                "params": {one.name: getattr(sampling, one.name) for one in settings(sampling)},
            },
            "total_slots": serving.config.limits.requests,
            "model_alias": served.name,
            "model_path": session.model.path.name,
            "modalities": {"vision": False, "audio": False},
            "chat_template": session.model.chat_template or "",
            "bos_token": vocab.text([vocab.bos], special=True) if vocab.bos >= 0 else "",
            "eos_token": vocab.text([vocab.eos], special=True) if vocab.eos >= 0 else "",
            "build_info": f"steerplug {__version__}",
        }


def _spelt(token: int, vocab: Vocab) -> str | list[int]:
    """Return what a token spells: text, or bytes where it is a part of a letter."""
    spelt = vocab.piece(token, True)
    try:
        return spelt.decode()
    except UnicodeDecodeError:
        return list(spelt)
