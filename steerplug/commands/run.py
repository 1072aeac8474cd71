"""`steerplug run`: one prompt, one answer, streamed to stdout."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from steerplug.commands.drawing import MaxTokens, Stop, with_sampling
from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import opened, prepare
from steerplug.commands.options import (
    MODEL,
    Carrier,
    Effort,
    Json,
    Model,
    Steer,
    System,
    Think,
    ThinkingBudget,
)
from steerplug.commands.output import print_json, say
from steerplug.commands.piped import read_prompt
from steerplug.commands.show_reply import stream, summary
from steerplug.engine.loading import Loading
from steerplug.engine.sampling import Sampling
from steerplug.errors import RequestError

if TYPE_CHECKING:
    from steerplug.session import Event, Session, Settings
    from steerplug.session.resolve import Resolved

Prompt = Annotated[
    str,
    typer.Argument(metavar="PROMPT", help="What to ask; piped text comes before it, or is it.",
                   show_default=False),
]  # fmt: skip
Raw = Annotated[bool, typer.Option("--raw", help="Continue plain text, without chat template.")]


@with_loading
@with_sampling
def run(
    prompt: Prompt = "",
    model: Model = MODEL,
    steer: Steer = "none",
    carrier: Carrier = "auto",
    system: System = None,
    raw: Raw = False,
    max_tokens: MaxTokens = None,
    stop: Stop = None,
    think: Think = None,
    reasoning_effort: Effort = None,
    thinking_budget: ThinkingBudget = None,
    as_json: Json = False,
    *,
    sampling: Sampling,
    loading: Loading,
) -> None:
    """Answer one prompt, steered.

    What a model thinks first is shown dim on a terminal, and not where the answer is piped.
    """
    if raw and system is not None:
        raise RequestError("--raw has no chat to put --system into; leave one of them out.")
    text = read_prompt(prompt)

    from steerplug.session import Settings

    settings = Settings(
        sampling, tuple(stop or ()), max_tokens, carrier=carrier, enable_thinking=think,
        reasoning_effort=reasoning_effort, thinking_budget_tokens=thinking_budget,
    )  # fmt: skip
    with opened(model, loading) as session:
        ask, steering = _continue if raw else _chat, prepare(session, steer, model, carrier)
        reply = stream(ask(session, text, system, steering, settings), shown=not as_json)
    if as_json:
        print_json({"model": model, "steering": steer, **reply.to_dict()})
    else:
        say(summary(reply))


def _chat(
    session: "Session", text: str, system: str | None, steering: "Resolved",
    settings: "Settings",
) -> "Iterator[Event]":
    messages = [{"role": "system", "content": system}] if system is not None else []
    return session.stream_chat([*messages, {"role": "user", "content": text}], steering, settings)


def _continue(
    session: "Session", text: str, _system: str | None, steering: "Resolved",
    settings: "Settings",
) -> "Iterator[Event]":
    return session.stream_complete(text, steering, settings)
