"""`steerplug try`: ask, and see the bare and the steered reply grow side by side.

Up and down turn the strength, and ask the last question again. Greedy decoding, so what changes is
the strength alone. What is not compiled yet is fitted quickly.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.live import Live
from rich.table import Table

from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import compiled, fitted, opened
from steerplug.commands.options import MODEL, Model, PresetFile
from steerplug.commands.output import complain, say, screen, visible
from steerplug.commands.show_reply import steered
from steerplug.engine.loading import Loading
from steerplug.errors import RequestError, SteerplugError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

    from steerplug.preset import Preset
    from steerplug.session import Session
    from steerplug.session.receipt import Reply

STEP = 0.25

MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of each reply.")]


@with_loading
def try_preset(
    preset: PresetFile, model: Model = MODEL, max_tokens: MaxTokens = 80, *, loading: Loading
) -> None:
    """Ask, see both replies, and turn the strength by the arrow keys."""
    from steerplug.library.presets import load_preset
    from steerplug.preset.mix import Ingredient, format_mix

    wanted = load_preset(preset)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RequestError(
            "`steerplug try` needs a terminal for its keys; in a pipe, use "
            f"`steerplug demo --preset {preset} --question TEXT`."
        )
    _check_installed()
    with opened(model, loading) as session:
        compiled(session, format_mix((Ingredient(preset),)), quick=True)
        dial = Dial(session, preset, wanted, max_tokens, _default(session, wanted))
        keys = _keys(dial)
        say(
            f"{session.model.path.stem}, bare and steered by {wanted.name}. Up and down turn the "
            "strength, Ctrl-C stops a reply, Ctrl-D ends."
        )
        for line in _lines(keys):
            _take(dial, line)


def _check_installed() -> None:
    try:
        import prompt_toolkit  # noqa: F401
    except ImportError:
        raise RequestError(
            "`steerplug try` reads keys with prompt_toolkit, which is not installed; "
            "run `pip install 'steerplug[demo]'`."
        ) from None


def _default(session: "Session", preset: "Preset") -> float:
    return fitted(session, preset).default_strength(preset)


@dataclass
class Dial:
    """A preset at a strength that can be turned, and the question asked last.

    Args:
        session: the model.
        reference: the preset's name or path.
        preset: what it says.
        max_tokens: most tokens of a reply.
        strength: how hard to push now.
        question: what was asked last; empty at first.
        bare: question -> the unsteered reply, which no strength changes.
    """

    session: "Session"
    reference: str
    preset: "Preset"
    max_tokens: int
    strength: float
    question: str = ""
    bare: dict[str, str] = field(default_factory=dict)

    def turn(self, steps: int) -> None:
        """Turn the strength by so many steps, within what the preset allows."""
        most = self.preset.strength.max
        least = min(self.preset.strength.min, -most)
        self.strength = min(max(round(self.strength + steps * STEP, 2), least), most)

    @property
    def mix(self) -> str:
        """The mix of the next reply."""
        from steerplug.preset.mix import Ingredient, format_mix

        return format_mix(
            (Ingredient(self.reference, abs(self.strength), -1 if self.strength < 0 else 1),)
        )

    def ask(self) -> None:
        """Show both replies to the question, as they come."""
        shown = {"bare": self.bare.get(self.question, ""), "steered": ""}
        ways = {"steered": self._stream(self.mix)}
        if not shown["bare"]:
            ways["bare"] = self._stream("none")
        reply: Reply | None = None
        with Live(self._table(shown), console=screen(), auto_refresh=False) as live:
            for way, event in _in_turn(ways):
                if isinstance(event, str):
                    shown[way] += event
                    live.update(self._table(shown), refresh=True)
                elif way == "steered":
                    reply = event
        self.bare[self.question] = shown["bare"]
        if reply is not None:
            say(f"{steered(reply)}.")

    def _stream(self, mix: str) -> "Iterator[str | Reply]":
        from steerplug.chat.tool import CallPiece
        from steerplug.engine.sampling import Sampling
        from steerplug.session import Settings
        from steerplug.session.receipt import Reply

        settings = Settings(
            Sampling(temperature=0), max_tokens=self.max_tokens, thinking_budget_tokens=0
        )
        message = {"role": "user", "content": self.question}
        for event in self.session.stream_chat([message], mix, settings):
            if isinstance(event, Reply):
                yield event
            elif not isinstance(event, CallPiece) and not event.in_thought:
                yield event.text

    def _table(self, shown: dict[str, str]) -> Table:
        table = Table(box=box.ROUNDED, expand=True, header_style="bold cyan", border_style="dim")
        table.add_column("bare", ratio=1)
        table.add_column(f"{self.preset.name} at {self.strength:g}", ratio=1)
        table.add_row(visible(shown["bare"]), visible(shown["steered"]))
        return table


def _in_turn(
    ways: "dict[str, Iterator[str | Reply]]",
) -> "Iterator[tuple[str, str | Reply]]":
    """Yield one event of each way after the other; the engine decodes them in one batch."""
    running = dict(ways)
    while running:
        for way, events in list(running.items()):
            try:
                yield way, next(events)
            except StopIteration:
                del running[way]


def _keys(dial: Dial) -> "PromptSession[str]":
    """Return a prompt whose arrow keys turn the dial; on an empty line they ask again."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    bindings = KeyBindings()

    def bind(key: str, steps: int) -> None:
        @bindings.add(key)
        def turn(event: KeyPressEvent) -> None:
            dial.turn(steps)
            if dial.question and not event.current_buffer.text:
                event.app.exit(result="")

    bind("up", 1)
    bind("down", -1)
    return PromptSession(
        lambda: f"{dial.preset.name} at {dial.strength:g} > ", key_bindings=bindings
    )


def _lines(keys: "PromptSession[str]") -> Iterator[str]:
    while True:
        try:
            yield keys.prompt().strip()
        except KeyboardInterrupt:
            say("Ctrl-D ends.")
        except EOFError:
            return


def _take(dial: Dial, line: str) -> None:
    """Ask what the line says, or the last question again."""
    dial.question = line or dial.question
    if not dial.question:
        return
    try:
        dial.ask()
    except SteerplugError as error:
        complain(error)
    except KeyboardInterrupt:
        say("stopped.")
