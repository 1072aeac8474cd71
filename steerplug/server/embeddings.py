"""`/v1/embeddings` and Ollama's: what to do instead, in a sentence.

A model that embeds texts makes no tokens that could be steered, and is refused when it is opened;
so all models here are such as write.
"""

from typing import NoReturn

from fastapi import FastAPI

from steerplug.server.errors import Refused
from steerplug.server.ollama.requests import plain_name
from steerplug.server.requests import ModelName, Open
from steerplug.server.state import ServerState


class EmbeddingBody(Open):
    """A request for embeddings, of which only the model matters."""

    model: ModelName


def add_to(app: FastAPI, serving: ServerState) -> None:
    """Add the endpoints."""

    @app.post("/v1/embeddings", response_model=None)
    @app.post("/api/embed", response_model=None)
    @app.post("/api/embeddings", response_model=None)
    async def embed(body: EmbeddingBody) -> NoReturn:
        """Say that no model here makes embeddings."""
        name = serving.models.find(plain_name(body.model)).name
        raise Refused(
            f"`{name}` writes text and makes no embeddings, nor does steerplug serve a model that "
            "does; ask another server for them, such as `llama-server --embeddings -m FILE`.",
            400, "model_not_supported", "model",
        )  # fmt: skip
