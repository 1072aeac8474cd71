"""`steerplug demo`: one question answered bare, with a system prompt, and steered without one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.text import Text

from steerplug.commands.completion import preset_names
from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import opened, prepare
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import is_wide, print_json, put, say, screen
from steerplug.commands.show_reply import stream
from steerplug.commands.side_by_side import Columns, in_turn, telling
from steerplug.engine.loading import Loading
from steerplug.errors import RequestError

if TYPE_CHECKING:
    from steerplug.chat.template import Message
    from steerplug.preset import Preset
    from steerplug.session import Session, Settings
    from steerplug.session.receipt import Reply

Ways: TypeAlias = "dict[str, tuple[list[Message], str | None]]"
Replies = dict[str, "Reply"]

BARE, PROMPTED, STEERED = "bare", "prompted", "steered"
TITLES = {BARE: "bare", PROMPTED: "with the prompt", STEERED: "steered by {}, no prompt"}


@with_loading
def demo(
    preset: Annotated[
        str, typer.Option(help="A preset's name or path.", autocompletion=preset_names)
    ] = "pirate",
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
        is_steered = bool(prepare(session, mix, model).mix)
        ways, console = _ways(shown, mix if is_steered else None, question), screen()
        say("Asking the same question each way, greedily (always the likeliest token) ...")
        titles = _titles(shown.name, ways)
        if not as_json:
            asked = f"\n{session.model.path.stem} is asked: {question}\n"
            put(Text(asked, "bold"))
        if as_json or not is_wide(console):
            replies = _one_by_one(session, ways, max_tokens, {} if as_json else titles)
        else:
            replies = _side_by_side(session, ways, max_tokens, titles)
    if as_json:
        print_json({
            "model": model, "preset": shown.name, "question": question,
            **{way: _figures(replies.get(way)) for way in TITLES},
            "prompt_tokens_saved": _saved(replies),
        })  # fmt: skip
    else:
        _sum_up(replies)
        say(
            f'Next: `steerplug run -m model.gguf --steer {preset} "..."` asks a model of your own, '
            "and `steerplug presets` lists what there is."
        )


def _ways(preset: "Preset", mix: str | None, question: str) -> Ways:
    """Return what is asked in each way: the messages and the steering.

    A preset made from a contrast has no prompt to compare with, and one that is not compiled for
    the model (`mix` is None) no steering.
    """
    from steerplug.fit.teacher import prompted_chat

    bare: list[Message] = [{"role": "user", "content": question}]
    ways: Ways = {BARE: (bare, None)}
    if preset.teacher:
        ways[PROMPTED] = prompted_chat(preset.teacher, bare), None
    if mix:
        ways[STEERED] = bare, mix
    return ways


def _titles(preset: str, ways: Ways) -> dict[str, str]:
    return {way: TITLES[way].format(preset) for way in ways}


def _greedy(max_tokens: int) -> "Settings":
    from steerplug.engine.sampling import Sampling
    from steerplug.session import Settings

    return Settings(Sampling(temperature=0), max_tokens=max_tokens, thinking_budget_tokens=0)


def _start_alike(session: "Session") -> None:
    """Have the weights in memory, and nothing of any prompt in the KV cache."""
    from steerplug.session import Settings

    session.complete("Hello", settings=Settings(max_tokens=1))
    session.engine.forget()


def _one_by_one(
    session: "Session", ways: Ways, max_tokens: int, titles: Mapping[str, str]
) -> Replies:
    """Return the reply of each way; those that have a title are shown as they come."""
    replies = Replies()
    for way, (messages, steering) in ways.items():
        _start_alike(session)
        if way in titles:
            put(Text(titles[way], "bold cyan"))
        events = session.stream_chat(messages, steering, _greedy(max_tokens))
        replies[way] = stream(events, shown=way in titles)
        if way in titles:
            costs = ", ".join(_costs(replies[way], replies[way].seconds_to_first))
            put(Text(f"({costs})\n", "dim"))
    return replies


def _side_by_side(
    session: "Session", ways: Ways, max_tokens: int, titles: Mapping[str, str]
) -> Replies:
    """Show all replies as they come, and return them.

    They share each step of the engine, so how long each takes to its first token is measured
    afterwards, alone.
    """
    columns, replies = Columns(titles), Replies()
    _start_alike(session)
    told = {way: telling(session, *asked, _greedy(max_tokens)) for way, asked in ways.items()}
    with columns.live():
        for way, event in in_turn(told):
            if isinstance(event, str):
                columns.texts[way] += event
            else:
                replies[way] = event
                columns.notes[way] = "\n".join(_costs(event, None))
        for way, (messages, steering) in ways.items():
            _start_alike(session)
            alone = session.chat(messages, steering, _greedy(1))
            columns.notes[way] = "\n".join(_costs(replies[way], alone.seconds_to_first))
    return {way: replies[way] for way in ways}


def _saved(replies: Replies) -> int:
    """Return how many prompt tokens the system prompt costs, which steering does not."""
    prompted, by_steering = replies.get(PROMPTED), replies.get(STEERED)
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


def _sum_up(replies: Replies) -> None:
    if STEERED not in replies:
        return
    if saved := _saved(replies):
        put(Text(f"{saved} prompt tokens saved, in every request.", "bold green"))


def _costs(reply: "Reply", seconds_to_first: float | None) -> list[str]:
    usage = reply.usage
    costs = [f"{usage.prompt_tokens} prompt tokens", f"{usage.completion_tokens} reply tokens"]
    if seconds_to_first is not None:
        costs.append(f"first token after {seconds_to_first:.2f} s")
    return costs
