"""`steerplug chat`: a conversation, its steering changed between replies.

On a terminal, what goes wrong is said and the conversation goes on. Piped, it ends the command.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from steerplug.commands.drawing import MaxTokens, Stop, with_sampling
from steerplug.commands.keyboard import unechoed
from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import naming, opened, prepare
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
from steerplug.commands.output import complain, print_json, say
from steerplug.commands.show_reply import steered, stream, summary
from steerplug.engine.loading import Loading
from steerplug.engine.sampling import Sampling
from steerplug.errors import RequestError, SteerplugError, nearest
from steerplug.preset.carrier import check_carrier

if TYPE_CHECKING:
    from steerplug.session import Event, Session, Settings
    from steerplug.session.receipt import Reply

HELP = """\
/steer MIX     steer the next replies, as by 0.8*weddings; none: not at all
/presets       list the presets there are
/carrier NAME  what brings presets in: auto, steering, prompt or both
/system TEXT   set the system prompt; without text, take it away
/reset         forget the conversation
/receipt       what was applied to the last reply
/help          this
/quit          end, as does Ctrl-D; Ctrl-C stops a reply"""


@with_loading
@with_sampling
def chat(
    model: Model = MODEL,
    steer: Steer = "none",
    carrier: Carrier = "auto",
    system: System = None,
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
    """Hold a conversation; /steer changes it."""
    from steerplug.session import Settings

    settings = Settings(
        sampling, tuple(stop or ()), max_tokens, carrier=carrier, enable_thinking=think,
        reasoning_effort=reasoning_effort, thinking_budget_tokens=thinking_budget,
    )  # fmt: skip
    with opened(model, loading) as session:
        prepare(session, steer, model, carrier)
        hello = [{"role": "user", "content": "Hello"}]  # refuse now, or not at all
        session.template.prompt(hello, variables=session.variables(settings))
        conversation = Conversation(session, model, steer, as_json, settings, system or "")
        if _is_terminal():
            say(f"{session.model.path.stem}, steered by {steer}. /help lists what can be changed.")
        for line in _lines():
            if line.strip() == "/quit":
                break
            with unechoed():
                _take(conversation, line.strip())


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _lines() -> Iterator[str]:
    """Yield the lines of stdin; on a terminal with a prompt, line editing and no end on Ctrl-C."""
    if not _is_terminal():
        yield from sys.stdin
        return
    with suppress(ImportError):  # Windows edits lines by itself
        import readline  # input() edits lines once this is loaded

        readline.parse_and_bind("set enable-bracketed-paste on")  # several lines, one message
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            print()
            say("Ctrl-D or /quit ends the conversation.")
        except EOFError:
            print()
            return


def _take(conversation: "Conversation", line: str) -> None:
    """Act on one line."""
    try:
        if line.startswith("/"):
            conversation.obey(line)
        elif line:
            conversation.answer(line)
    except SteerplugError as error:
        if not _is_terminal():
            raise
        complain(naming(conversation.model, error))
    except KeyboardInterrupt:
        if not _is_terminal():
            raise
        print()
        say("stopped.")


@dataclass
class Conversation:
    """What was said so far, and how the next reply is made.

    Args:
        session: the model.
        model: how the user calls it.
        steering: the mix of the next reply.
        as_json: print each reply as one line of JSON.
        settings: how to generate.
        system: the system prompt, if any.
        turns: the messages so far, without it.
        last: the last reply that was finished.
    """

    session: "Session"
    model: str
    steering: str
    as_json: bool
    settings: "Settings"
    system: str = ""
    turns: list[dict[str, str]] = field(default_factory=list)
    last: "Reply | None" = None

    def answer(self, text: str) -> None:
        """Reply to the user; of a reply that is stopped, the beginning counts as said."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.turns, {"role": "user", "content": text}]
        events = self.session.stream_chat(messages, self.steering, self.settings)
        heard, thought = list[str](), list[str]()
        try:
            reply = stream(_overheard(events, heard, thought), shown=not self.as_json)
        finally:
            if answer := "".join(heard):
                said = {"role": "assistant", "content": answer}
                if thoughts := "".join(thought):
                    said["reasoning_content"] = thoughts
                self.turns += [{"role": "user", "content": text}, said]
        self.last = reply
        if self.as_json:
            about = {"model": self.model, "steering": self.steering}
            print_json({**about, **reply.to_dict()}, indent=None)
        else:
            say(summary(reply))

    def obey(self, line: str) -> None:
        """Do what a line that begins with a slash says.

        Raises:
            RequestError: there is no such thing to do.
        """
        word, _, rest = line.partition(" ")
        known: dict[str, Callable[[str], None]] = {
            "/steer": self._steer, "/carrier": self._set_carrier, "/presets": self._list,
            "/system": self._set_system, "/reset": self._reset, "/receipt": self._tell,
            "/help": lambda _: say(HELP, style=""),
        }  # fmt: skip
        if word not in known:
            guess = nearest(word, known) or ";"
            raise RequestError(f"there is no `{word}`{guess} /help lists all.")
        known[word](rest.strip())

    def _steer(self, mix: str) -> None:
        if mix:
            prepare(self.session, mix, self.model, self.settings.carrier)
            self.steering = mix
        say(f"steered by {self.steering}.")

    def _set_carrier(self, name: str) -> None:
        if name:
            carrier = check_carrier(name)
            prepare(self.session, self.steering, self.model, carrier)
            self.settings = replace(self.settings, carrier=carrier)
        say(f"the carrier is {self.settings.carrier}.")

    def _list(self, _rest: str) -> None:
        from steerplug.library.presets import list_presets

        names = [one.name for one in list_presets() if one.preset is not None]
        say(", ".join(names), style="")

    def _tell(self, _rest: str) -> None:
        say(f"{steered(self.last)}." if self.last else "there is no reply yet.")

    def _set_system(self, text: str) -> None:
        self.system = text
        say("the system prompt is set." if text else "there is no system prompt.")

    def _reset(self, _rest: str) -> None:
        self.turns.clear()
        say("the conversation is forgotten.")


def _overheard(
    events: "Iterator[Event]", heard: list[str], thought: list[str]
) -> "Iterator[Event]":
    """Pass events on, and note the text of each piece."""
    from steerplug.engine.engine import Piece

    for event in events:
        if isinstance(event, Piece):
            (thought if event.in_thought else heard).append(event.text)
        yield event
