"""`/api/tags`, `/api/show`, `/api/ps`, `/api/version`: each model, bare and with each preset."""

import asyncio
import hashlib
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from gguf import LlamaFileType
from pydantic import model_validator

from steerplug.server.ollama.requests import plain_name, tagged
from steerplug.server.requests import ModelName, Open
from steerplug.server.served import Served
from steerplug.server.state import ServerState

SPOKEN = "0.12.11"
"""The version of Ollama whose API this is; clients refuse to work with one that is too old."""

Described = dict[str, Any]

_SHORT = ((1_000_000_000, "B"), (1_000_000, "M"), (1000, "K"))


class ShowBody(Open):
    """A model by its name, which older clients call `name`."""

    model: ModelName

    @model_validator(mode="before")
    @classmethod
    def _is_named(cls, body: Any) -> Any:
        named = isinstance(body, dict) and "name" in body
        return {"model": body["name"], **body} if named else body


def add_to(app: FastAPI, serving: ServerState) -> None:
    """Add the endpoints."""

    @app.get("/api/tags")
    async def tags() -> Described:
        """List the models, each bare and with each preset."""
        ids = [(served, name) for served in serving.models for name in served.chooser.models()]
        return {"models": [_listed(served, name) for served, name in ids]}

    @app.get("/api/ps")
    async def running() -> Described:
        """Say that the models are loaded; they stay so."""
        stays = {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
        return {"models": [
            {**_listed(served, served.name), **stays, "context_length": served.session.engine.n_ctx}
            for served in serving.models
        ]}  # fmt: skip

    @app.get("/api/version")
    async def version() -> Described:
        """Say which Ollama's API this is."""
        return {"version": SPOKEN}

    @app.post("/api/show")
    async def show(body: ShowBody) -> Described:
        """Describe a model, which may be a mix."""
        name = plain_name(body.model)
        served = serving.models.find(name)
        await asyncio.to_thread(served.chooser.choose, name, None, None)
        return _shown(served)


def _listed(served: Served, name: str) -> Described:
    model = served.session.model
    digest = hashlib.sha256(f"{model.fingerprint} {name}".encode()).hexdigest()
    return {
        "name": tagged(name),
        "model": tagged(name),
        "modified_at": _modified(served),
        "size": model.n_bytes,
        "digest": digest,
        "details": _details(served),
    }


def _shown(served: Served) -> Described:
    model, template = served.session.model, served.session.template
    kind = model.architecture
    chats = ["tools"] if model.chat_template else []
    thinks = ["thinking"] if template.thoughts else []
    return {
        "modified_at": _modified(served),
        "license": model.metadata("general.license") or "",
        "modelfile": "",
        "parameters": f"num_ctx {served.session.engine.n_ctx}",
        "template": model.chat_template or "",
        "details": _details(served),
        "model_info": {
            "general.architecture": kind,
            "general.parameter_count": model.n_weights,
            f"{kind}.context_length": model.n_ctx_train,
            f"{kind}.embedding_length": model.n_embd,
            f"{kind}.block_count": model.n_layer,
        },
        "capabilities": ["completion", *chats, *thinks],
    }


def _details(served: Served) -> Described:
    model = served.session.model
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.architecture,
        "families": [model.architecture],
        "parameter_size": _short(model.n_weights),
        "quantization_level": _quantisation(model.metadata("general.file_type")),
    }


def _modified(served: Served) -> str:
    changed = served.session.model.modified
    return datetime.fromtimestamp(changed, UTC).isoformat().replace("+00:00", "Z")


def _short(n: int) -> str:
    """Return a number as in 135M."""
    return next((f"{n / unit:.3g}{letter}" for unit, letter in _SHORT if n >= unit), str(n))


def _quantisation(file_type: str | None) -> str:
    """Return what a file's weights are kept in, as in Q4_K_M."""
    try:
        name = str(LlamaFileType(int(file_type or "")).name)
    except ValueError:
        return "unknown"
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")
