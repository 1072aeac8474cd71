"""The part of Ollama's API that asks a model, for tools that know only that.

`requests` reads a request as one of OpenAI's, and from there on it goes the way of all requests;
`answers` says the replies in Ollama's words; `models` lists what can be asked.
"""

from fastapi import FastAPI

from steerplug.server.ollama import answers, models
from steerplug.server.state import ServerState


def add_to(app: FastAPI, serving: ServerState) -> None:
    """Add the endpoints."""
    answers.add_to(app, serving)
    models.add_to(app, serving)
