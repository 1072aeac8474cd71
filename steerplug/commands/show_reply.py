"""A reply on its way to the user, and what is said about it afterwards."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from steerplug.commands.output import screen, visible
from steerplug.commands.wrapped import Wrapped

if TYPE_CHECKING:
    from steerplug.session import Event
    from steerplug.session.receipt import AppliedPreset, Reply


def stream(events: "Iterable[Event]", *, shown: bool) -> "Reply":
    """Return the reply that ends `events`; if `shown`, write its text to stdout as it comes.

    Thoughts are shown on a terminal alone, dim, above the answer.
    """
    from steerplug.engine.engine import Piece
    from steerplug.session.receipt import Reply

    thoughts, answer = _Thoughts(), Wrapped(screen())
    for event in events:
        if isinstance(event, Reply):
            break
        if shown and isinstance(event, Piece):
            if event.in_thought:
                thoughts.show(event.text)
                continue
            if event.text:
                thoughts.end()
            answer.write(visible(event.text))
    if shown:
        thoughts.end()
        answer.end()
        print(flush=True)
    assert isinstance(event, Reply)
    return event


class _Thoughts:
    """What a model thinks, dim on a terminal, with a line of its own between it and the answer."""

    def __init__(self) -> None:
        self._screen, self._is_open = screen(), False
        self._lines = Wrapped(self._screen, "dim")

    def show(self, text: str) -> None:
        if text and self._screen.is_terminal:
            self._is_open = True
            self._lines.write(visible(text))

    def end(self) -> None:
        if self._is_open:
            self._is_open = False
            self._lines.end()
            self._screen.print("\n")


def summary(reply: "Reply") -> str:
    """Return one short line on how a reply was steered, and what it took."""
    usage = reply.usage
    cut = ", cut at the limit" if reply.finish_reason == "length" else ""
    thought = f", {usage.reasoning_tokens} of them thought" if usage.reasoning_tokens else ""
    return (
        f"{_by(reply)}: {usage.prompt_tokens} prompt + "
        f"{usage.completion_tokens} reply tokens{thought}{cut}"
    )


def _by(reply: "Reply") -> str:
    """Return what a reply was steered or prompted by, in as few words as do."""
    steering = [one for one in reply.receipt.steering if one.carrier != "prompt"]
    prompts = [one for one in reply.receipt.steering if one.carrier == "prompt"]
    parts = []
    if steering:
        parts.append(f"steered by {' and '.join(map(_short, steering))}")
    if prompts:
        parts.append(f"{' and '.join(map(_short, prompts))} by prompt")
    return "; ".join(parts) or "not steered"


def _short(ingredient: "AppliedPreset") -> str:
    pack = f" of {ingredient.pack}" if ingredient.pack else ""
    times = "" if ingredient.strength == 1 else f"{ingredient.strength:g}*"
    return f"{times}{ingredient.name}{pack}{_fit(ingredient)}"


def _fit(ingredient: "AppliedPreset") -> str:
    return " (quick)" if ingredient.quick else ""


def steered(reply: "Reply") -> str:
    """Return what steered a reply, in words, with all that its receipt tells."""
    receipt = reply.receipt
    steering = [one for one in receipt.steering if one.carrier != "prompt"]
    prompts = [one.name for one in receipt.steering if one.carrier != "steering"]
    parts = []
    if steering:
        parts.append(
            f"steered by {' and '.join(map(_ingredient, steering))}: "
            f"{receipt.tokens_steered} tokens, activations moved by {receipt.mean_moved:.0%}"
        )
    if prompts:
        parts.append(f"{' and '.join(prompts)} by prompt: {receipt.prompt_tokens} tokens")
    return "; ".join(parts) or "not steered"


def _ingredient(ingredient: "AppliedPreset") -> str:
    pack = f" of {ingredient.pack}" if ingredient.pack else ""
    name = f"{ingredient.name} {ingredient.version}".rstrip() + pack + _fit(ingredient)
    return f"{name} at strength {ingredient.strength:g} ({blocks(ingredient.layers)})"


def blocks(layers: Sequence[int]) -> str:
    """Return blocks in words: `block 21`, `blocks 1-3, 7`, or if scattered `14 blocks, 1 to 27`."""
    runs: list[list[int]] = []
    for il in layers:
        if runs and il == runs[-1][-1] + 1:
            runs[-1].append(il)
        else:
            runs.append([il])
    if len(runs) > 3:
        return f"{len(layers)} blocks, {layers[0]} to {layers[-1]}"
    listed = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"block{'s' if len(layers) > 1 else ''} {listed}"
