"""`steerplug try`: ask, and see the bare and the steered reply grow side by side.

Up and down turn the strength, and ask the last question again, also while the replies still come.
Greedy decoding, so what changes is the strength alone. What is not compiled yet is fitted quickly.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from steerplug.commands.keyboard import Keyboard
from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import fitted, opened
from steerplug.commands.options import MODEL, Model, PresetFile
from steerplug.commands.output import complain, say
from steerplug.commands.show_reply import summary
from steerplug.commands.side_by_side import Columns, Told, in_turn, telling
from steerplug.engine.loading import Loading
from steerplug.errors import RequestError, SteerplugError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

    from steerplug.preset import Preset
    from steerplug.session import Session
    from steerplug.session.receipt import Reply

STEP = 0.25
TURNS = {"up": 1, "down": -1}
"""Steps by which keys turn the strength."""

MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of each reply.")]


@with_loading
def try_preset(
    preset: PresetFile, model: Model = MODEL, max_tokens: MaxTokens = 80, *, loading: Loading
) -> None:
    """Ask, see both replies, and turn the strength by the arrow keys."""
    from steerplug.library.presets import load_preset

    wanted = load_preset(preset)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RequestError(
            "`steerplug try` needs a terminal for its keys; in a pipe, use "
            f"`steerplug demo --preset {preset} --question TEXT`."
        )
    _check_installed()
    with opened(model, loading) as session:
        try:
            built = fitted(session, wanted, preset, model, quick=True)
        except typer.Exit:
            say(f"`steerplug demo --preset {preset} -m {model}` shows it by its prompt.")
            raise
        strength = built.default_strength(wanted)
        dial = Dial(session, preset, wanted, max_tokens, Keyboard(), strength)
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


@dataclass
class Dial:
    """A preset at a strength that can be turned, and the question asked last.

    Args:
        session: the model.
        reference: the preset's name or path.
        preset: what it says.
        max_tokens: most tokens of a reply.
        keyboard: what turns the strength while replies come.
        strength: how hard to push now.
        question: what was asked last; empty at first.
        bare: question -> the unsteered reply, which no strength changes.
    """

    session: "Session"
    reference: str
    preset: "Preset"
    max_tokens: int
    keyboard: Keyboard
    strength: float
    question: str = ""
    bare: dict[str, str] = field(default_factory=dict)

    def turn(self, steps: int) -> bool:
        """Turn the strength by so many steps, within what the preset allows; say whether it did."""
        before, most = self.strength, self.preset.strength.max
        least = min(self.preset.strength.min, -most)
        self.strength = min(max(round(self.strength + steps * STEP, 2), least), most)
        return self.strength != before

    @property
    def mix(self) -> str:
        """The mix of the next reply."""
        from steerplug.preset.mix import Ingredient, format_mix

        return format_mix(
            (Ingredient(self.reference, abs(self.strength), -1 if self.strength < 0 else 1),)
        )

    def ask(self) -> None:
        """Show both replies to the question as they come; a key begins the steered one anew."""
        columns = Columns({"bare": "bare", "steered": self._title})
        columns.texts["bare"] = self.bare.get(self.question, "")
        ways = {"steered": self._telling(self.mix)}
        if not columns.texts["bare"]:
            ways["bare"] = self._telling("none")
        reply: Reply | None = None
        with self.keyboard.silent(), columns.live():
            for way, event in in_turn(ways):
                if isinstance(event, str):
                    columns.texts[way] += event
                elif way == "steered":
                    reply = event
                if self.turn(self.keyboard.pressed(TURNS)):
                    columns.titles["steered"], columns.texts["steered"] = self._title, ""
                    if "steered" in ways:
                        ways["steered"].close()
                    ways["steered"], reply = self._telling(self.mix), None
        self.bare[self.question] = columns.texts["bare"]
        if reply is not None:
            say(summary(reply))

    @property
    def _title(self) -> str:
        return f"{self.preset.name} at {self.strength:g}"

    def _telling(self, mix: str) -> Told:
        from steerplug.engine.sampling import Sampling
        from steerplug.session import Settings

        settings = Settings(
            Sampling(temperature=0), max_tokens=self.max_tokens, thinking_budget_tokens=0
        )
        return telling(self.session, self.question, mix, settings)


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

    for key, steps in TURNS.items():
        bind(key, steps)
    return PromptSession(
        lambda: f"{dial.preset.name} at {dial.strength:g} > ", key_bindings=bindings,
        input=dial.keyboard.input,
    )  # fmt: skip


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
