"""Having the session reply to a request that was translated: the one way of all endpoints."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import Request

from steerplug.server.echo import scored_first
from steerplug.server.errors import Refused
from steerplug.server.merge_streams import Numbered, together
from steerplug.server.requests import ChatBody, CompletionBody
from steerplug.server.served import Served
from steerplug.server.state import ServerState
from steerplug.server.steering_choice import SteeringChoice
from steerplug.server.translate import chat_messages, chat_settings, completion_settings, prompts
from steerplug.session import Session, Text

_MAX_PROMPTS = 64


@dataclass(frozen=True)
class Asked:
    """Replies that will come.

    Args:
        served: the model that gives them.
        choice: how they are steered.
        events: what they say, each by its number.
        n: how many there are.
        texts: the prompts of a completion.
    """

    served: Served
    choice: SteeringChoice
    events: AsyncGenerator[Numbered, None]
    n: int
    texts: Sequence[Text] = ()

    @property
    def n_prompts(self) -> int:
        """To how many prompts they reply."""
        return len(self.texts) or 1


async def ask_chat(serving: ServerState, request: Request, body: ChatBody) -> Asked:
    """Ask for the next messages of a chat.

    Raises:
        SteerplugError: something cannot be obeyed; see `translate` and `steering_choice`.
    """
    served, limits = serving.models.find(body.model), serving.config.limits
    choice = await served.choose(request.headers, body)
    messages = chat_messages(body, limits)
    settings = chat_settings(
        body, limits, request.state.partition, parse_special=serving.config.parse_special
    )
    serving.note_asked(request, messages=messages)
    ask = partial(served.session.astream_chat, whole=not body.stream)
    events = together([ask(messages, choice.steering, one) for one in settings])
    return Asked(served, choice, events, len(settings))


async def ask_texts(serving: ServerState, request: Request, body: CompletionBody) -> Asked:
    """Ask how texts go on; errors as `ask_chat`."""
    served, limits = serving.models.find(body.model), serving.config.limits
    choice = await served.choose(request.headers, body)
    texts = prompts(body, limits, served.session.model.vocab.n_tokens)
    settings = completion_settings(
        body, limits, request.state.partition, parse_special=serving.config.parse_special
    )
    if (n := len(texts) * len(settings)) > _MAX_PROMPTS:
        raise Refused(
            f"prompts times n may be at most {_MAX_PROMPTS} and are {n}; send fewer.",
            param="prompt" if len(texts) > _MAX_PROMPTS else "n",
        )
    serving.note_asked(request, prompts=texts)
    scores = body.echo and body.logprobs is not None
    ask = scored_first if scores else Session.astream_complete
    ask = partial(ask, served.session, whole=not body.stream)
    events = together([ask(text, choice.steering, one) for text in texts for one in settings])
    return Asked(served, choice, events, len(texts) * len(settings), texts)
