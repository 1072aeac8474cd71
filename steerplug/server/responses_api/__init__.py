"""`POST /v1/responses`: OpenAI's Responses API as far as a server goes that keeps nothing.

`requests` reads a request as a chat, and from there on it goes the way of all chats; `items` says
the reply as the items of a response, and `answer` as events.
"""

from fastapi import FastAPI, Request, Response

from steerplug.server.asking import ask_chat
from steerplug.server.responses_api.answer import ResponseAnswer
from steerplug.server.responses_api.requests import ResponsesBody, chat_body
from steerplug.server.state import ServerState


def add_to(app: FastAPI, serving: ServerState) -> None:
    """Add the endpoint."""

    @app.post("/v1/responses", response_model=None)
    async def respond(body: ResponsesBody, request: Request) -> Response:
        """Return a response to the input, or stream it."""
        chat = chat_body(body)
        asked = await ask_chat(serving, request, chat)
        return await ResponseAnswer(serving, request, chat, asked, body).respond()
