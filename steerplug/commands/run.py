"""`steerplug run`: one prompt, one answer, streamed to stdout."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from steerplug.commands.opened import opened
from steerplug.commands.options import MODEL, Json, Model, Steer
from steerplug.commands.output import print_json, say
from steerplug.commands.piped import read_prompt
from steerplug.commands.reply import stream, summary
from steerplug.errors import RequestError

if TYPE_CHECKING:
    from steerplug.session import Event, Session, Settings

Prompt = Annotated[
    str,
    typer.Argument(metavar="[PROMPT]", help="What to ask; piped text comes before it, or is it.",
                   show_default=False),
]  # fmt: skip
System = Annotated[str | None, typer.Option(help="A system prompt.", show_default=False)]
Raw = Annotated[bool, typer.Option("--raw", help="Continue plain text, without chat template.")]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens to write.", show_default=False)]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopK = Annotated[int, typer.Option(help="Keep the k most likely tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Keep the most likely tokens up to this probability.")]
MinP = Annotated[float, typer.Option(help="Keep tokens this share as likely as the best.")]
RepeatPenalty = Annotated[float, typer.Option(help="Above 1 makes recent tokens less likely.")]
Seed = Annotated[int | None, typer.Option(help="Repeats a reply.", show_default=False)]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="Text that ends the reply; may be given several times."),
]


def run(
    prompt: Prompt = "",
    model: Model = MODEL,
    steer: Steer = "none",
    system: System = None,
    raw: Raw = False,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.8,
    top_k: TopK = 40,
    top_p: TopP = 0.95,
    min_p: MinP = 0.05,
    repeat_penalty: RepeatPenalty = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    as_json: Json = False,
) -> None:
    """Answer one prompt, steered."""
    if raw and system is not None:
        raise RequestError("--raw has no chat to put --system into; leave one of them out.")
    text = read_prompt(prompt)

    from steerplug.engine.sampling import Sampling
    from steerplug.session import Settings

    sampling = Sampling(temperature, top_k, top_p, min_p, repeat_penalty, seed)
    settings = Settings(sampling, tuple(stop or ()), max_tokens)
    with opened(model, steer) as session:
        ask = _continue if raw else _chat
        reply = stream(ask(session, text, system, steer, settings), shown=not as_json)
    if as_json:
        print_json({"model": model, "steering": steer, **reply.to_dict()})
    else:
        say(summary(reply))


def _chat(
    session: "Session", text: str, system: str | None, steer: str, settings: "Settings"
) -> "Iterator[Event]":
    messages = [{"role": "system", "content": system}] if system is not None else []
    return session.stream_chat([*messages, {"role": "user", "content": text}], steer, settings)


def _continue(
    session: "Session", text: str, _system: str | None, steer: str, settings: "Settings"
) -> "Iterator[Event]":
    return session.stream_complete(text, steer, settings)
