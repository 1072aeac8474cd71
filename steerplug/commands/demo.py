"""`steerplug demo`: one question answered bare, with a system prompt, and steered without one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import opened, prepare
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import is_wide, print_json, say, screen, visible
from steerplug.commands.show_reply import steered
from steerplug.engine.loading import Loading
from steerplug.errors import RequestError

if TYPE_CHECKING:
    from steerplug.chat.template import Message
    from steerplug.preset import Preset
    from steerplug.session import Session
    from steerplug.session.receipt import Reply

Replies = dict[str, "Reply | None"]

BARE, PROMPTED, STEERED = "bare", "prompted", "steered"


@with_loading
def demo(
    preset: Annotated[str, typer.Option(help="A preset's name or path.")] = "pirate",
    question: Annotated[str, typer.Option(help="What to ask.")] = "How do I learn to swim?",
    model: Model = MODEL,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of each reply.")] = 60,
    as_json: Json = False,
    *,
    loading: Loading,
) -> None:
    """Ask one question bare, prompted and steered."""
    from steerplug.library.presets import load_preset
    from steerplug.preset.mix import Ingredient, format_mix

    if not question.strip():
        raise RequestError("the question is empty; write what to ask.")
    shown, mix = load_preset(preset), format_mix((Ingredient(preset),))
    with opened(model, loading) as session:
        is_steered = bool(prepare(session, mix).mix)
        say("Asking the same question each way, always taking the likeliest token (greedy) ...")
        replies = _ask(session, shown, mix if is_steered else None, question, max_tokens)
        name = session.model.path.stem
    if as_json:
        print_json({
            "model": model, "preset": shown.name, "question": question,
            **{way: _figures(reply) for way, reply in replies.items()},
            "prompt_tokens_saved": _saved(replies),
        })  # fmt: skip
    else:
        _show(screen(), name, shown.name, question, replies)


def _ask(
    session: "Session", preset: "Preset", mix: str | None, question: str, max_tokens: int
) -> Replies:
    """Return the reply of each way.

    A preset made from a contrast has no prompt to compare with, and one that is not compiled for
    the model (`mix` is None) no steering.
    """
    from steerplug.engine.sampling import Sampling
    from steerplug.fit.teacher import prompted_chat
    from steerplug.session import Settings

    bare: list[Message] = [{"role": "user", "content": question}]
    prompted = prompted_chat(preset.teacher, bare) if preset.teacher else None
    greedy = Settings(
        Sampling(temperature=0), max_tokens=max_tokens, thinking_budget_tokens=0
    )  # answers are compared

    def answer(messages: "list[Message]", steering: str | None = None) -> "Reply":
        # Each way starts alike: weights in memory, and nothing of its prompt in the KV cache.
        session.complete("Hello", settings=Settings(max_tokens=1))
        session.engine.forget()
        return session.chat(messages, steering, greedy)

    return {
        BARE: answer(bare),
        PROMPTED: answer(prompted) if prompted else None,
        STEERED: answer(bare, mix) if mix else None,
    }


def _saved(replies: Replies) -> int:
    """Return how many prompt tokens the system prompt costs, which steering does not."""
    prompted, by_steering = replies[PROMPTED], replies[STEERED]
    if prompted is None or by_steering is None:
        return 0
    return prompted.usage.prompt_tokens - by_steering.usage.prompt_tokens


def _figures(reply: "Reply | None") -> dict[str, Any] | None:
    if reply is None:
        return None
    fields = reply.to_dict()
    figures = {
        "text": fields["text"], **fields["usage"], "finish_reason": fields["finish_reason"],
        "seconds_to_first": fields["seconds_to_first"], "seconds": fields["seconds"],
    }  # fmt: skip
    return {**figures, "receipt": fields["receipt"]} if reply.receipt.steering else figures


def _show(console: Console, model: str, preset: str, question: str, replies: Replies) -> None:
    titles = {
        BARE: "bare", PROMPTED: "with the prompt", STEERED: f"steered by {preset}, no prompt",
    }  # fmt: skip
    answered = {titles[way]: reply for way, reply in replies.items() if reply is not None}
    console.print(Text(f"\n{model} is asked: {question}\n", "bold"), soft_wrap=True)
    if is_wide(console):
        console.print(_side_by_side(answered))
    else:
        for title, reply in answered.items():
            console.print(Text(title, "bold cyan"))
            console.print(visible(reply.text), soft_wrap=not console.is_terminal)
            console.print(Text(f"({', '.join(_costs(reply))})\n", "dim"), soft_wrap=True)
    by_steering = replies[STEERED]
    if by_steering is None:
        return
    if saved := _saved(replies):
        console.print(f"{saved} prompt tokens saved, in every request.", style="bold green")
    console.print(f"{steered(by_steering)}.", soft_wrap=True)


def _side_by_side(answered: "dict[str, Reply]") -> Table:
    table = Table(box=box.ROUNDED, expand=True, header_style="bold cyan", border_style="dim")
    for title in answered:
        table.add_column(title, ratio=1)
    table.add_row(*(visible(reply.text) for reply in answered.values()))
    table.add_section()
    table.add_row(*(Text("\n".join(_costs(reply)), "dim") for reply in answered.values()))
    return table


def _costs(reply: "Reply") -> tuple[str, str, str]:
    usage = reply.usage
    return (
        f"{usage.prompt_tokens} prompt tokens",
        f"{usage.completion_tokens} reply tokens",
        f"first token after {reply.seconds_to_first:.2f} s",
    )
